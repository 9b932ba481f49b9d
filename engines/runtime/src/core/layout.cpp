#include "core/layout.hpp"

#include <algorithm>

#include "core/failure.hpp"
#include "core/image.hpp"

namespace sparsesam {
namespace {

constexpr std::int64_t any = -2;  // in an expected shape: whatever the engine has

class Tensors {
 public:
  Tensors(const std::vector<TensorInfo>& tensors, std::string path) : tensors_(tensors), path_(std::move(path)) {}

  [[nodiscard]] bool has(const char* name) const { return find(name) != nullptr; }

  const TensorInfo& take(const char* name, bool is_input, const std::vector<std::int64_t>& expected) {
    const TensorInfo* tensor = find(name);
    if (tensor == nullptr) {
      refuse(std::string("has no ") + (is_input ? "input " : "output ") + name);
    }
    const bool fits =
        std::equal(expected.begin(), expected.end(), tensor->shape.begin(), tensor->shape.end(),
                   [](std::int64_t wanted, std::int64_t found) { return wanted == any || wanted == found; });
    if (tensor->is_input != is_input || !tensor->is_float32 || !fits) {
      refuse(std::string("has another ") + name + " than float32 of SAM's shape");
    }
    ++taken_;
    return *tensor;
  }

  // Each tensor has to be bound before an engine runs.
  void require_all_taken() const {
    if (taken_ != tensors_.size()) {
      refuse("has " + std::to_string(tensors_.size()) + " inputs and outputs where " + std::to_string(taken_) +
             " are known");
    }
  }

  [[noreturn]] void refuse(const std::string& problem) const {
    throw Failure(SPARSESAM_CHECK_FAILED,
                  path_ + " " + problem + "; rebuild it with the `sparsesam-export build` of this runtime's release.");
  }

 private:
  [[nodiscard]] const TensorInfo* find(const char* name) const {
    const auto found = std::find_if(tensors_.begin(), tensors_.end(),
                                    [name](const TensorInfo& tensor) { return tensor.name == name; });
    return found == tensors_.end() ? nullptr : &*found;
  }

  const std::vector<TensorInfo>& tensors_;
  std::string path_;
  std::size_t taken_ = 0;
};

}  // namespace

std::size_t EncoderLayout::interm_values() const {
  return static_cast<std::size_t>(interm_shape[0] * interm_shape[2] * interm_shape[3] * interm_shape[4]);
}

EncoderLayout encoder_layout(const std::vector<TensorInfo>& tensors, const std::string& path) {
  Tensors named(tensors, path);
  EncoderLayout layout;
  const TensorInfo& image = named.take(tensor::image, true, {any, 3, image_size, image_size});
  layout.batch_min = static_cast<std::int32_t>(image.min_shape.at(0));
  layout.batch_max = static_cast<std::int32_t>(image.max_shape.at(0));
  named.take(tensor::image_embeddings, false, {any, embedding_channels, grid_size, grid_size});
  if (named.has(tensor::interm_embeddings)) {
    const TensorInfo& interm = named.take(tensor::interm_embeddings, false, {any, any, grid_size, grid_size, any});
    layout.has_interm = true;
    layout.interm_shape = {interm.shape[0], -1, grid_size, grid_size, interm.shape[4]};
    if (interm.shape[0] < 1 || interm.shape[4] < 1) {
      named.refuse("has interm_embeddings of an unknown number of blocks or channels");
    }
  }
  named.require_all_taken();
  return layout;
}

DecoderLayout decoder_layout(const std::vector<TensorInfo>& tensors, const EncoderLayout& encoder,
                             const std::string& path) {
  Tensors named(tensors, path);
  named.take(tensor::image_embeddings, true, {1, embedding_channels, grid_size, grid_size});
  if (encoder.has_interm) {
    named.take(tensor::interm_embeddings, true,
               {encoder.interm_shape[0], 1, grid_size, grid_size, encoder.interm_shape[4]});
  }
  const TensorInfo& coords = named.take(tensor::point_coords, true, {any, any, 2});
  named.take(tensor::point_labels, true, {any, any});
  named.take(tensor::mask_input, true, {any, 1, low_res, low_res});
  named.take(tensor::has_mask_input, true, {any});
  const TensorInfo& masks = named.take(tensor::low_res_masks, false, {any, any, low_res, low_res});
  named.take(tensor::iou_predictions, false, {any, num_iou});
  named.require_all_taken();

  DecoderLayout layout;
  layout.max_prompts = static_cast<std::int32_t>(coords.max_shape.at(0));
  layout.min_points = static_cast<std::int32_t>(coords.min_shape.at(1));
  layout.max_points = static_cast<std::int32_t>(coords.max_shape.at(1));
  layout.num_masks = static_cast<std::int32_t>(masks.shape[1]);
  layout.has_interm = encoder.has_interm;
  if (layout.num_masks != (encoder.has_interm ? num_iou + 1 : num_iou)) {
    named.refuse("answers with " + std::to_string(layout.num_masks) + " masks");
  }
  if (coords.min_shape.at(0) != 1) {
    named.refuse("takes no single prompt");
  }
  return layout;
}

}  // namespace sparsesam
