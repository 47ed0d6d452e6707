"""What drivers say about the GPUs of this machine: NVIDIA's, and Vulkan's."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from dataclasses import dataclass
from typing import Any

_CUDA_ERROR_NO_DEVICE = 100

#: VkPhysicalDeviceType, the most capable first; 4 is a CPU.
_TYPES = {2: 0, 1: 1, 3: 2, 0: 3, 4: 4}
_IN_SOFTWARE = 4

#: VkStructureType.
_INSTANCE_CREATE_INFO, _APPLICATION_INFO = 1, 0
_PROPERTIES_2, _DRIVER_PROPERTIES = 1000059001, 1000196000

_VULKAN_1_2 = 1 << 22 | 2 << 12

#: More than Vulkan has ever written behind a structure's head, limits included.
_SPARE = 4096


@dataclass(frozen=True)
class Adapter:
    """A device of Vulkan's: its name, its driver with the driver's version, and whether it is the
    CPU that computes."""

    name: str
    driver: str
    software: bool

    def __str__(self) -> str:
        parts = (self.name, self.driver, "in software" if self.software else "")
        return ", ".join(filter(None, parts))


def ask_driver() -> tuple[str, str]:
    """Ask NVIDIA's driver for its first device: (device, "") or ("", problem)."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
        status = int(driver.cuInit(0))
        if status == _CUDA_ERROR_NO_DEVICE:
            return "", "the NVIDIA driver sees no GPU"
        if status:
            return "", f"the NVIDIA driver does not start (cuInit returns {status})"
        count, version = ctypes.c_int(0), ctypes.c_int(0)
        name = ctypes.create_string_buffer(256)
        if driver.cuDeviceGetCount(ctypes.byref(count)) or count.value < 1:
            return "", "the NVIDIA driver sees no GPU"
        driver.cuDeviceGetName(name, len(name), 0)
        driver.cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return "", "no NVIDIA driver"
    major, minor = version.value // 1000, version.value % 1000 // 10
    driver_version = f"driver {_driver_version()}".strip()
    return f"{name.value.decode(errors='replace')}, {driver_version} for CUDA {major}.{minor}", ""


def _driver_version() -> str:
    """The version of NVIDIA's driver, as its management library tells it; empty if it does not."""
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
        text = ctypes.create_string_buffer(96)
        if library.nvmlInit_v2() == 0:
            found = library.nvmlSystemGetDriverVersion(text, len(text)) == 0
            library.nvmlShutdown()
            return text.value.decode(errors="replace") if found else ""
    return ""


def vulkan_adapters() -> list[Adapter]:
    """The devices that Vulkan lists, the most capable first; none where there is no Vulkan.

    A driver may crash when it is asked, so this belongs into a process of its own.
    """
    try:
        vulkan = ctypes.CDLL("vulkan-1.dll" if sys.platform == "win32" else "libvulkan.so.1")
        instance = _vulkan_instance(vulkan)
        count = ctypes.c_uint32(0)
        vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), None)
        devices = (ctypes.c_void_p * count.value)()
        vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), devices)
        ask = vulkan.vkGetPhysicalDeviceProperties2
        found = [_vulkan_adapter(ask, device) for device in devices if device]
        vulkan.vkDestroyInstance(instance, None)
    except (OSError, AttributeError):
        return []
    return [adapter for _, adapter in sorted(found, key=lambda pair: pair[0])]


class _Application(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("next", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("version", ctypes.c_uint32),
        ("engine", ctypes.c_char_p),
        ("engine_version", ctypes.c_uint32),
        ("api", ctypes.c_uint32),
    )


class _Create(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("next", ctypes.c_void_p),
        ("flags", ctypes.c_uint32),
        ("application", ctypes.POINTER(_Application)),
        ("layers", ctypes.c_uint32),
        ("layer_names", ctypes.c_void_p),
        ("extensions", ctypes.c_uint32),
        ("extension_names", ctypes.c_void_p),
    )


class _Driver(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("next", ctypes.c_void_p),
        ("id", ctypes.c_uint32),
        ("name", ctypes.c_char * 256),
        ("info", ctypes.c_char * 256),
        ("spare", ctypes.c_uint8 * 64),
    )


class _Properties(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("next", ctypes.c_void_p),
        ("api", ctypes.c_uint32),
        ("driver", ctypes.c_uint32),
        ("vendor", ctypes.c_uint32),
        ("device", ctypes.c_uint32),
        ("kind", ctypes.c_uint32),
        ("name", ctypes.c_char * 256),
        ("spare", ctypes.c_uint8 * _SPARE),
    )


def _vulkan_instance(vulkan: Any) -> Any:
    """Vulkan, ready to be asked; raises OSError if it cannot start."""
    application = _Application(type=_APPLICATION_INFO, api=_VULKAN_1_2)
    create = _Create(type=_INSTANCE_CREATE_INFO, application=ctypes.pointer(application))
    instance = ctypes.c_void_p()
    vulkan.vkDestroyInstance.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
    vulkan.vkEnumeratePhysicalDevices.argtypes = (ctypes.c_void_p,) * 3
    vulkan.vkGetPhysicalDeviceProperties2.argtypes = (ctypes.c_void_p,) * 2
    vulkan.vkGetPhysicalDeviceProperties2.restype = None
    if vulkan.vkCreateInstance(ctypes.byref(create), None, ctypes.byref(instance)):
        raise OSError("Vulkan does not start")
    return instance


def _vulkan_adapter(ask: Any, device: int) -> tuple[int, Adapter]:
    """The rank of a device, and the device."""
    driver = _Driver(type=_DRIVER_PROPERTIES)
    found = _Properties(type=_PROPERTIES_2, next=ctypes.addressof(driver))
    ask(device, ctypes.byref(found))
    name, *info = (text.decode(errors="replace") for text in (driver.name, driver.info))
    words = " ".join(filter(None, (name.removesuffix(" driver"), *info)))
    name = f"driver {words}" if words else ""
    software = found.kind == _IN_SOFTWARE
    adapter = Adapter(found.name.decode(errors="replace"), name, software)
    return _TYPES.get(found.kind, 3), adapter
