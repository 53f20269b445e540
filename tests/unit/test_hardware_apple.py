"""A Mac's GPUs, from what ioreg says."""

from pulsetrain.hardware.apple import AppleSource

# The shape of what `ioreg -r -d 1 -w 0 -c IOAccelerator` prints on Apple silicon; shortened.
IOREG = (
    "+-o AGXAcceleratorG13X  <class AGXAcceleratorG13X, id 0x100000a1b, registered, matched, active, retain 99>\n"
    "    {\n"
    '      "IOClass" = "AGXAcceleratorG13X"\n'
    '      "PerformanceStatistics" = {"In use system memory (driver)"=0,"Alloc system memory"=9002303488,'
    '"Tiler Utilization %"=41,"recoveryCount"=0,"Renderer Utilization %"=40,"Device Utilization %"=43,'
    '"SplitSceneCount"=0,"In use system memory"=2147483648}\n'
    '      "gpu-core-count" = 16\n'
    "    }\n\n"
)


def test_the_utilisation_and_the_memory_are_read():
    source = AppleSource(lambda: IOREG, "darwin")
    assert source.sample(0.0) == {
        "gpu/0/APPLE-0/utilization_percent": 43.0,
        "gpu/0/APPLE-0/memory_used_bytes": 2147483648.0,
    }
    assert [device.index for device in source.devices] == [0]


def test_it_is_asked_every_five_seconds_and_never_elsewhere():
    asked = []
    source = AppleSource(lambda: asked.append(1) or IOREG, "darwin")
    for second in range(11):
        source.sample(float(second))
    assert len(asked) == 3
    elsewhere = AppleSource(lambda: asked.append(1) or IOREG, "linux")
    assert elsewhere.sample(0.0) == {}
    assert len(asked) == 3


def test_what_is_not_understood_gives_nothing():
    assert AppleSource(lambda: "", "darwin").sample(0.0) == {}
    assert AppleSource(lambda: '"PerformanceStatistics" = {"vramUsedBytes"=1}', "darwin").sample(0.0) == {}
