#include "core/prompts.hpp"

#include <algorithm>
#include <cmath>
#include <sstream>
#include <string>

#include "core/failure.hpp"

namespace sparsesam {
namespace {

constexpr float padding = -1, box_top_left = 2, box_bottom_right = 3;  // SAM's point labels
constexpr std::int32_t most = 65536;                                   // prompts, or points of one

[[noreturn]] void refuse(const std::string& sentence) { throw Failure(SPARSESAM_INVALID_INPUT, sentence); }

std::string joined(const float* values, std::size_t count) {
  std::ostringstream text;
  for (std::size_t i = 0; i < count; ++i) {
    text << (i == 0 ? "" : ",") << values[i];
  }
  return text.str();
}

void require_numbers(const float* values, std::size_t count, const char* what) {
  if (!std::all_of(values, values + count, [](float value) { return std::isfinite(value); })) {
    refuse(std::string(what) + " " + joined(values, count) + " is not finite; give pixels of the image.");
  }
}

void require_counts(const sparsesam_prompts& prompts) {
  if (prompts.num_prompts < 1 || (prompts.num_points == 0 && prompts.boxes == nullptr)) {
    refuse("no prompt was given; give at least one box or point.");
  }
  if (prompts.num_prompts > most || prompts.num_points < 0 || prompts.num_points > most) {
    refuse(std::to_string(prompts.num_prompts) + " prompts of " + std::to_string(prompts.num_points) +
           " points are no counts; give at most " + std::to_string(most) + " of each.");
  }
  if (prompts.num_points > 0) {
    require(prompts.point_coords, "point_coords");
    require(prompts.point_labels, "point_labels");
  }
}

}  // namespace

DecoderPrompts decoder_prompts(const sparsesam_prompts& prompts, Size original) {
  require_counts(prompts);
  const Size input = input_size(original);
  // In double, as segment_anything's apply_coords.
  const double scale_x = static_cast<double>(input.width) / original.width;
  const double scale_y = static_cast<double>(input.height) / original.height;
  DecoderPrompts result;
  result.num_prompts = prompts.num_prompts;
  result.num_points = prompts.num_points + (prompts.boxes == nullptr ? 1 : 2);
  const auto add = [&](const float* point, float label) {
    result.coords.push_back(static_cast<float>(point[0] * scale_x));
    result.coords.push_back(static_cast<float>(point[1] * scale_y));
    result.labels.push_back(label);
  };
  for (std::ptrdiff_t prompt = 0; prompt < prompts.num_prompts; ++prompt) {
    for (std::ptrdiff_t i = 0; i < prompts.num_points; ++i) {
      const std::ptrdiff_t index = prompt * prompts.num_points + i;
      const float* point = prompts.point_coords + index * 2;
      const std::int32_t label = prompts.point_labels[index];
      require_numbers(point, 2, "point");
      if (label != 0 && label != 1) {
        refuse("point label " + std::to_string(label) + " is unknown; give 1 inside the object or 0 outside.");
      }
      add(point, static_cast<float>(label));
    }
    if (prompts.boxes == nullptr) {
      result.coords.insert(result.coords.end(), {0.0F, 0.0F});
      result.labels.push_back(padding);
      continue;
    }
    const float* box = prompts.boxes + prompt * 4;
    require_numbers(box, 4, "box");
    if (box[0] >= box[2] || box[1] >= box[3]) {
      refuse("box " + joined(box, 4) + " has no area; give x0,y0,x1,y1 with x0 < x1 and y0 < y1.");
    }
    add(box, box_top_left);
    add(box + 2, box_bottom_right);
  }
  return result;
}

}  // namespace sparsesam
