"""Photos of one's own: what is shown of them, and what is said of photos, nets and weights that do not fit."""

import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from camlib import look
from camlib.__main__ import main
from camlib.data import Scenes
from camlib.lab import weights
from camlib.lab.runs import Run
from camlib.maps import cam, grad_cam
from camlib.models import create
from camlib.names import UnknownName
from camlib.observe import NotObservable, observe
from camlib.target import one_hot

K = 7


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    generator = torch.Generator().manual_seed(0)
    for name, size in (("wide.jpg", (90, 60)), ("high.png", (50, 80)), ("grey.png", (64, 64))):
        pixels = torch.randint(256, (size[1], size[0], 3), dtype=torch.uint8, generator=generator)
        Image.fromarray(pixels.numpy()).convert("L" if name == "grey.png" else "RGB").save(folder / name)
    return [folder / name for name in ("wide.jpg", "high.png", "grey.png")]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet8.pt"
    torch.save(create("resnet8", K).state_dict(), path)
    return path


def test_the_likeliest_classes_and_their_maps(photos, file):
    net = look.net("resnet8", file)
    pixels = look.read(photos, net)
    assert pixels.shape == (3, 3, 32, 32)
    numbers, probabilities, maps = look.maps_of_likeliest(net, pixels)
    model = create("resnet8", K)
    model.load_state_dict(torch.load(file, weights_only=True))
    mean, std = (torch.tensor(values)[:, None, None] for values in look.IMAGENET)
    out = observe(model.eval())((pixels / 255 - mean) / std)
    expected = out.logits.softmax(1).sort(1, descending=True)
    assert torch.equal(numbers, expected.indices[:, :5])
    torch.testing.assert_close(probabilities, expected.values[:, :5].detach())
    third = one_hot(numbers[:, 2], K)
    torch.testing.assert_close(maps[:, 2], cam(out.maps[-1], out.weight, third).detach())
    _, _, by_gradient = look.maps_of_likeliest(net, pixels, "grad_cam")
    torch.testing.assert_close(by_gradient[:, 2], grad_cam(out.logits, out.maps[-1], third).detach())
    inner = look.net("resnet8", file, layer="layer1")
    _, _, maps = look.maps_of_likeliest(inner, pixels, "grad_cam", count=2)
    assert maps.shape == (3, 2, 32, 32)
    first = one_hot(numbers[:, 0], K)
    torch.testing.assert_close(maps[:, 0], grad_cam(out.logits, out.maps[0], first).detach())


def test_photos_are_cut_to_their_middle(tmp_path):
    picture = Image.new("RGB", (300, 100), (0, 0, 0))
    picture.paste((255, 255, 255), (100, 0, 200, 100))
    picture.save(tmp_path / "middle.png")
    net = look.Net(observe(create("resnet8", K).eval()), tuple("abcdefg"), 100, 100, *look.IMAGENET)
    assert look.read([tmp_path / "middle.png"], net).min() == 255


def test_a_kept_net_brings_its_normalisation_and_classes(photos):
    run = Run("scenes/resnet8/ce")
    net, kept = look.net("resnet8", weights.path_of(run)), weights.trained(run.name)
    assert net.classes == Scenes("test", count=1).classes
    numbers, probabilities, _ = look.maps_of_likeliest(net, look.read(photos, net), count=10)
    out = kept.observed(kept.normalised(look.read(photos, net)))
    torch.testing.assert_close(probabilities, out.logits.softmax(1).gather(1, numbers).detach())


def test_a_photo_is_turned_as_the_camera_was(photos, file, tmp_path):
    net = look.net("resnet8", file)
    with Image.open(photos[0]) as photo:
        exif = photo.getexif()
        exif[0x0112] = 3  # upside down
        photo.save(tmp_path / "turned.png", exif=exif)
    upright, turned = look.read([photos[0], tmp_path / "turned.png"], net)
    torch.testing.assert_close(turned, upright.flip(1, 2), atol=1, rtol=0)


def test_half_precision_and_double(photos, file):
    net = look.net("resnet8", file)
    pixels = look.read(photos, net)
    numbers, probabilities, _ = look.maps_of_likeliest(net, pixels)
    for dtype, atol in ((torch.float64, 1e-4), (torch.bfloat16, 0.05)):
        net.observed.to(dtype)
        others = look.maps_of_likeliest(net, pixels)
        torch.testing.assert_close(others[1].float(), probabilities, atol=atol, rtol=0)
        assert torch.equal(others[0][:, 0], numbers[:, 0])
        assert others[2].dtype in (torch.float32, torch.float64)


def test_a_net_in_training_mode_is_refused(photos, file):
    net = look.net("resnet8", file)
    net.observed.train()
    with pytest.raises(look.LookError, match=r"in training mode.*call net\.observed\.eval\(\)"):
        look.maps_of_likeliest(net, look.read(photos, net))


def test_the_command_writes_a_picture(photos, file, tmp_path, capsys):
    names = tmp_path / "names.txt"
    names.write_text("".join(f"kind {k}\n" for k in range(K)))
    out = tmp_path / "seen.png"
    arguments = ["--model", "resnet8", "--weights", str(file), "--classes", str(names), "--out", str(out)]
    assert main(["look", *map(str, photos), *arguments, "--device", "cpu"]) == 0
    with Image.open(out) as picture:
        assert picture.width > picture.height
    said = capsys.readouterr().out
    assert said.count("kind ") == 5 * len(photos)
    assert str(out) in said
    assert [path.name for path in tmp_path.iterdir()].count("seen.png.part") == 0


def test_what_does_not_fit_is_answered_in_one_line(photos, file, tmp_path, capsys):
    no_photo, nothing = tmp_path / "notes.jpg", tmp_path / "nothing.jpg"
    no_photo.write_text("not a photo")
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    code = tmp_path / "code.pt"
    torch.save(nn.Linear(2, 2), code)
    half = tmp_path / "half.png"
    half.write_bytes(photos[1].read_bytes()[:2000])
    alone = tmp_path / "alone.pt"
    torch.save({"bias": torch.zeros(3)}, alone)
    wrapped = tmp_path / "wrapped.pt"
    torch.save({"epoch": 3, "net": {"bias": torch.zeros(3)}}, wrapped)
    fits = ["--model", "resnet8", "--weights", str(file)]
    for arguments, says in (
        ([no_photo, *fits], f"{no_photo} is no picture that can be read"),
        ([nothing, *fits], f"{nothing} cannot be read"),
        ([half, *fits], f"{half} cannot be read"),
        ([tmp_path, *fits], f"{tmp_path} cannot be read"),
        ([photos[0], *fits, "--kind", "gradcam"], "gradcam"),
        ([photos[0], *fits, "--layer", "layer9"], "no stage 'layer9'"),
        ([photos[0], *fits, "--layer", "layer1"], "a CAM is made of the maps that are averaged, not of layer1"),
        ([photos[0], *fits, "--classes", tmp_path / "names.txt"], "2 names of classes, but resnet8 has 7 classes"),
        ([photos[0], *fits, "--size", "4"], "4 pixels leave a map of 1 × 1: the net's stride needs larger pictures"),
        ([photos[0], *fits, "--size", "0"], "a picture of 0 pixels a side cannot be shown"),
        ([photos[0], *fits, "--out", tmp_path / "seen.doc"], "seen.doc ends in no kind of picture"),
        ([photos[0], *fits, "--out", tmp_path / "no" / "seen.png"], "seen.png"),
        ([photos[0], "--model", "resnet8"], "resnet8 is a net of camlib.models, whose weights nobody publishes"),
        ([photos[0], "--model", "resnet9"], "resnet9"),
        ([photos[0], "--model", "resnet8", "--weights", nothing], "No such file"),
        ([photos[0], "--model", "resnet8", "--weights", no_photo], "cannot be read as weights"),
        ([photos[0], "--model", "resnet8", "--weights", code], "cannot be read as weights"),
        ([photos[0], "--model", "resnet8", "--weights", alone], "hold no matrix and no 1 × 1 convolution"),
        ([photos[0], "--model", "resnet8", "--weights", wrapped], "state_dict() gives, but epoch, net"),
        (
            [photos[0], "--model", "resnet20", "--weights", file],
            "'layer1.1.conv1.weight' is nothing in it and (16, 1",
        ),
        ([photos[0], "--model", "vgg11", "--weights", file], "belongs to another net"),
    ):
        assert main(["look", *map(str, arguments), "--device", "cpu"]) == 2, arguments
        error = capsys.readouterr().err
        assert says in error, arguments
        assert error.count("\n") == 1, arguments


def test_a_net_of_torchvision_with_a_file(photos, tmp_path):
    torch.save(torchvision.models.shufflenet_v2_x0_5(num_classes=K).state_dict(), tmp_path / "weights.pt")
    net = look.net("shufflenet_v2_x0_5", tmp_path / "weights.pt", size=64)
    assert (net.size, net.resize) == (64, 73)
    numbers, _, maps = look.maps_of_likeliest(net, look.read(photos, net), "channel_weighted", count=3)
    assert numbers.shape == (3, 3)
    assert maps.shape == (3, 3, 2, 2)


def test_a_file_of_a_net_that_ends_in_a_convolution(photos, tmp_path):
    torch.save(torchvision.models.squeezenet1_1(num_classes=K).state_dict(), tmp_path / "weights.pt")
    net = look.net("squeezenet1_1", tmp_path / "weights.pt", size=64)
    assert len(net.classes) == K
    numbers, _, maps = look.maps_of_likeliest(net, look.read(photos, net), count=3)
    out = net.observed(net.normalised(look.read(photos, net)))
    first = out.maps[-1].gather(1, numbers[:, :1, None, None].expand(-1, 1, *maps.shape[2:]))
    torch.testing.assert_close(maps[:, 0], first[:, 0].detach())  # the averaged maps are the class maps


def test_errors_keep_their_kind(photos, file):
    with pytest.raises(UnknownName):
        look.maps_of_likeliest(look.net("resnet8", file), torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "none")
    with pytest.raises(NotObservable):
        look.net("resnet8", file, layer="layer9")
