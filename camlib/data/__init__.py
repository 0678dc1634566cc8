"""Images: the embedded Scenes, real data sets by name, and batches on the device."""

from camlib.data.datasets import DataError, FileSet, ImageSet, check, data_root, get, load, manifest, statistics
from camlib.data.loader import Loader, normalised
from camlib.data.scenes import Scenes
from camlib.data.stream import StreamLoader
from camlib.data.trap import Trap
