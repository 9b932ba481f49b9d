// The C functions that need neither TensorRT nor a GPU.
#include <algorithm>
#include <cstddef>
#include <string>

#include "core/checks.hpp"
#include "core/failure.hpp"
#include "core/image.hpp"
#include "sparsesam/core.h"

#define SPARSESAM_TEXT_OF(value) #value
#define SPARSESAM_TEXT(value) SPARSESAM_TEXT_OF(value)

extern "C" {

const char* sparsesam_version(void) {
  return SPARSESAM_TEXT(SPARSESAM_VERSION_MAJOR) "." SPARSESAM_TEXT(SPARSESAM_VERSION_MINOR) "." SPARSESAM_TEXT(
      SPARSESAM_VERSION_PATCH);
}

sparsesam_status sparsesam_check_folder(const char* path, const char* tensorrt_version, const char* compute_capability,
                                        sparsesam_error* error) {
  return sparsesam::guarded(error, [&] {
    sparsesam::require(path, "path");
    sparsesam::Machine machine;
    if (tensorrt_version != nullptr) {
      machine.tensorrt_version = tensorrt_version;
    }
    if (compute_capability != nullptr) {
      machine.compute_capability = compute_capability;
    }
    sparsesam::check_folder(sparsesam::open_folder(path), machine);
  });
}

sparsesam_status sparsesam_preprocess(const sparsesam_image* image, float* tensor, int32_t* input_height,
                                      int32_t* input_width, sparsesam_error* error) {
  return sparsesam::guarded(error, [&] {
    sparsesam::require(image, "image");
    sparsesam::require(image->data, "image.data");
    sparsesam::require(tensor, "tensor");
    const sparsesam::Size size = sparsesam::preprocess(*image, tensor);
    if (input_height != nullptr) {
      *input_height = size.height;
    }
    if (input_width != nullptr) {
      *input_width = size.width;
    }
  });
}

sparsesam_status sparsesam_upscale_mask(const float* low_res_mask, int32_t height, int32_t width, float* logits,
                                        sparsesam_error* error) {
  return sparsesam::guarded(error, [&] {
    sparsesam::require(low_res_mask, "low_res_mask");
    sparsesam::require(logits, "logits");
    sparsesam::MaskUpscaler upscaler(low_res_mask, {height, width});
    for (int32_t y = 0; y < height; ++y) {
      upscaler.row(y, logits + static_cast<std::ptrdiff_t>(y) * width);
    }
  });
}

}  // extern "C"
