// What an engine's tensors must look like for the runtime to bind them; needs no TensorRT, so that it is tested
// without.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace sparsesam {

// Names of the engines' inputs and outputs.
namespace tensor {
constexpr const char* image = "image";
constexpr const char* image_embeddings = "image_embeddings";
constexpr const char* interm_embeddings = "interm_embeddings";
constexpr const char* point_coords = "point_coords";
constexpr const char* point_labels = "point_labels";
constexpr const char* mask_input = "mask_input";
constexpr const char* has_mask_input = "has_mask_input";
constexpr const char* low_res_masks = "low_res_masks";
constexpr const char* iou_predictions = "iou_predictions";
}  // namespace tensor

constexpr std::int64_t embedding_channels = 256;
constexpr std::int64_t grid_size = 64;
constexpr std::int64_t embedding_values = embedding_channels * grid_size * grid_size;
constexpr int num_iou = 4;

// An input or output of an engine.
struct TensorInfo {
  std::string name;
  bool is_input = false;
  bool is_float32 = false;
  std::vector<std::int64_t> shape;      // -1 where dynamic
  std::vector<std::int64_t> min_shape;  // smallest and largest of the profile; inputs only
  std::vector<std::int64_t> max_shape;
};

struct EncoderLayout {
  std::int32_t batch_min = 1;
  std::int32_t batch_max = 1;
  bool has_interm = false;
  std::array<std::int64_t, 5> interm_shape{};  // (num_global, -1, 64, 64, C); zeros without

  // Values of interm_embeddings for one image.
  [[nodiscard]] std::size_t interm_values() const;
};

struct DecoderLayout {
  std::int32_t max_prompts = 0;
  std::int32_t min_points = 0;
  std::int32_t max_points = 0;
  std::int32_t num_masks = 0;
  bool has_interm = false;
};

// Find the encoder's layout. Failure CHECK_FAILED: a tensor is missing, unknown, of another type or shape; `path` is
// named in the message.
EncoderLayout encoder_layout(const std::vector<TensorInfo>& tensors, const std::string& path);

// The same of the decoder that belongs to `encoder`.
DecoderLayout decoder_layout(const std::vector<TensorInfo>& tensors, const EncoderLayout& encoder,
                             const std::string& path);

}  // namespace sparsesam
