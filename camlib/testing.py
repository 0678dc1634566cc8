"""What a trained net is tested by besides plain accuracy."""

from camlib.few_shot import FewShot as FewShot
