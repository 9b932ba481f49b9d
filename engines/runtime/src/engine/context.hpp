// One thread's use of a loaded engine: execution contexts, buffers, and the image that masks are predicted for.
#pragma once

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <initializer_list>
#include <memory>

#include "core/image.hpp"
#include "core/prompts.hpp"
#include "engine/device.hpp"
#include "engine/engine.hpp"

namespace sparsesam {

class InferenceContext {
 public:
  explicit InferenceContext(std::shared_ptr<LoadedEngine> engine);
  ~InferenceContext();
  InferenceContext(const InferenceContext&) = delete;
  InferenceContext& operator=(const InferenceContext&) = delete;
  InferenceContext(InferenceContext&&) = delete;
  InferenceContext& operator=(InferenceContext&&) = delete;

  // These are the C functions of the same names; failures are theirs.
  void encode(const float* images, std::int32_t batch, float* embeddings, float* interm_embeddings,
              cudaStream_t stream);
  void encode_image(const sparsesam_image& image, cudaStream_t stream);
  void use_embeddings(const float* embeddings, const float* interm_embeddings, Size original, cudaStream_t stream);
  void predict(const sparsesam_prompts& prompts, const sparsesam_answer& answer, cudaStream_t stream);

  // Device memory of the current image; null when there is none, or no such output.
  [[nodiscard]] const float* embeddings() const { return has_image() ? embeddings_.get() : nullptr; }
  [[nodiscard]] const float* interm_embeddings() const { return has_image() ? interm_.get() : nullptr; }
  [[nodiscard]] bool has_image() const { return original_.height > 0; }

 private:
  // Host copies of what the decoder answered.
  struct Decoded {
    std::vector<float> masks;  // (N, M, 256, 256)
    std::vector<float> iou;    // (N, 4)
  };
  void require_interm(const float* interm_embeddings) const;
  void require_prompts_fit(const DecoderPrompts& prompts) const;
  Decoded decode(const DecoderPrompts& prompts, const float* mask_input, cudaStream_t stream);

  std::shared_ptr<LoadedEngine> engine_;
  std::unique_ptr<nvinfer1::IExecutionContext> encoder_;
  std::unique_ptr<nvinfer1::IExecutionContext> decoder_;
  PinnedBuffer staging_;  // a prepared image, (3, 1024, 1024)
  DeviceBuffer image_;    // the same on the device
  DeviceBuffer embeddings_, interm_;
  DeviceBuffer coords_, labels_, mask_input_, has_mask_, masks_, iou_;
  Size original_;  // of the current image; 0x0 without one
};

}  // namespace sparsesam
