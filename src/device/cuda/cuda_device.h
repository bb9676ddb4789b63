// The GPU as a Device (device.h), and what the plugin tells of GPUs.
#pragma once

#include <memory>
#include <string>

#include "device/cuda_backend.h"
#include "device/device.h"

namespace llmtrain::cuda {

// GPUs that this process sees; 0 with the reason in `why` (no driver, no device, a driver that is too old).
int device_count(std::string& why);
CudaDeviceInfo device_info(int device);
std::unique_ptr<Device> make_device(int device);
// Which GPU a Device of this backend is.
int device_index(const Device& device);

}  // namespace llmtrain::cuda
