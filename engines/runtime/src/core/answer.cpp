#include "core/answer.hpp"

#include <algorithm>
#include <cstddef>
#include <functional>

#include "core/layout.hpp"

namespace sparsesam {
namespace {

constexpr std::size_t mask_values = std::size_t{low_res} * low_res;

void write_mask(const float* logits, Size original, std::uint8_t* mask) {
  MaskUpscaler upscaler(logits, original);
  std::vector<float> row(static_cast<std::size_t>(original.width));
  for (std::int32_t y = 0; y < original.height; ++y) {
    upscaler.row(y, row.data());
    mask = std::transform(row.begin(), row.end(), mask, [](float logit) { return logit > 0 ? 1 : 0; });
  }
}

}  // namespace

std::int32_t chosen_mask(const float* iou_predictions, bool with_box) {
  if (with_box) {
    return 0;
  }
  return static_cast<std::int32_t>(std::max_element(iou_predictions + 1, iou_predictions + num_iou) - iou_predictions);
}

void write_answer(const sparsesam_answer& answer, const std::vector<float>& masks, const std::vector<float>& iou,
                  std::int32_t num_masks, bool with_box, Size original) {
  const std::size_t count = iou.size() / num_iou;
  const auto masks_each = static_cast<std::size_t>(num_masks);
  const std::size_t pixels = static_cast<std::size_t>(original.height) * static_cast<std::size_t>(original.width);
  for (std::size_t prompt = 0; prompt < count; ++prompt) {
    const float* prompt_iou = iou.data() + prompt * num_iou;
    const std::int32_t chosen = chosen_mask(prompt_iou, with_box);
    if (answer.mask_indices != nullptr) {
      answer.mask_indices[prompt] = chosen;
    }
    if (answer.iou != nullptr) {
      answer.iou[prompt] = prompt_iou[chosen];
    }
    if (answer.masks != nullptr) {
      const float* prompt_masks = masks.data() + prompt * masks_each * mask_values;
      const float* mask = prompt_masks + static_cast<std::size_t>(chosen) * mask_values;
      std::vector<float> logits(mask, mask + mask_values);
      if (num_masks > num_iou) {
        std::transform(logits.begin(), logits.end(), prompt_masks + num_iou * mask_values, logits.begin(),
                       std::plus<>());
      }
      write_mask(logits.data(), original, answer.masks + prompt * pixels);
    }
  }
  if (answer.low_res_masks != nullptr) {
    std::copy(masks.begin(), masks.end(), answer.low_res_masks);
  }
  if (answer.iou_predictions != nullptr) {
    std::copy(iou.begin(), iou.end(), answer.iou_predictions);
  }
}

}  // namespace sparsesam
