// From the decoder's outputs to what the caller asked for.
#pragma once

#include <cstdint>
#include <vector>

#include "core/image.hpp"
#include "sparsesam/runtime.h"

namespace sparsesam {

// Which mask answers a prompt: the first for boxes, for points the one of the other three with the best predicted IoU.
// `iou_predictions` are the prompt's four.
std::int32_t chosen_mask(const float* iou_predictions, bool with_box);

// Fill what of `answer` is wanted.
//
// masks: (N, num_masks, 256, 256) logits. With a fifth mask, SAM-HQ's, the answer is the sum with it.
// iou: (N, 4).
void write_answer(const sparsesam_answer& answer, const std::vector<float>& masks, const std::vector<float>& iou,
                  std::int32_t num_masks, bool with_box, Size original);

}  // namespace sparsesam
