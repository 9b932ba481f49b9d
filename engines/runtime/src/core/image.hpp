// SAM's image preparation and mask upscaling.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "sparsesam/core.h"

namespace sparsesam {

constexpr int image_size = SPARSESAM_IMAGE_SIZE;
constexpr int low_res = SPARSESAM_LOW_RES;
constexpr std::array<float, 3> pixel_mean{123.675F, 116.28F, 103.53F};  // by channel, of values in 0 to 255
constexpr std::array<float, 3> pixel_std{58.395F, 57.12F, 57.375F};

// Pixels.
struct Size {
  std::int32_t height = 0;
  std::int32_t width = 0;
};

// The size after scaling the longer side to 1024: segment_anything's ResizeLongestSide.get_preprocess_shape.
// Failure INVALID_INPUT: a side is not positive, above 2^24, or so short that nothing is left of it.
Size input_size(Size original);

// Prepare an image into `tensor`, (3, 1024, 1024), host memory. Returns the image's size inside it.
// Failure INVALID_INPUT: see input_size; a row stride too small.
Size preprocess(const sparsesam_image& image, float* tensor);

// Low-resolution logits at the image's size, one row after another.
class MaskUpscaler {
 public:
  // `low_res_mask`: (256, 256), must outlive this object. Failure INVALID_INPUT: see input_size.
  MaskUpscaler(const float* low_res_mask, Size original);

  // Write row `y` of the image-sized logits, `original.width` values. Rows in ascending order are fastest.
  void row(std::int32_t y, float* logits);

 private:
  // Where a resampled position lies between two source positions.
  struct Tap {
    std::int32_t low = 0;
    std::int32_t high = 0;
    float weight_low = 0;
    float weight_high = 0;
  };
  static std::vector<Tap> taps(std::int32_t from, std::int32_t to, std::int32_t count);
  const float* frame_row(std::int32_t y);

  const float* low_res_;
  std::int32_t input_width_;
  std::vector<Tap> frame_rows_, frame_columns_, rows_, columns_;
  // Two rows of the 1024 frame, by the parity of their index, and which rows they are.
  std::array<std::vector<float>, 2> cache_;
  std::array<std::int32_t, 2> cached_{-1, -1};
};

}  // namespace sparsesam
