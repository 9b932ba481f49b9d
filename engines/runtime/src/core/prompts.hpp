// Prompts in the decoder's input layout.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/image.hpp"
#include "sparsesam/runtime.h"

namespace sparsesam {

// The decoder's prompt inputs; coordinates are pixels of the 1024x1024 input.
struct DecoderPrompts {
  std::int32_t num_prompts = 0;
  std::int32_t num_points = 0;  // box corners and padding point included
  std::vector<float> coords;    // (num_prompts, num_points, 2)
  std::vector<float> labels;    // (num_prompts, num_points)
};

// Lay out prompts as segment_anything does: points, then the box as two points labelled 2 and 3; prompts without a box
// end with a padding point labelled -1 instead. Mask inputs are not looked at.
//
// Failure INVALID_INPUT: no prompt, a label that is neither 0 nor 1, a box without area, a coordinate that is no
// number.
DecoderPrompts decoder_prompts(const sparsesam_prompts& prompts, Size original);

}  // namespace sparsesam
