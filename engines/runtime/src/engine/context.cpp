#include "engine/context.hpp"

#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "core/answer.hpp"
#include "core/failure.hpp"
#include "engine/logger.hpp"

namespace sparsesam {
namespace {

constexpr std::size_t image_values = std::size_t{3} * image_size * image_size;
constexpr std::size_t mask_values = std::size_t{low_res} * low_res;

// One run of an engine: bind every tensor, then enqueue.
class Run {
 public:
  Run(nvinfer1::IExecutionContext& context, std::string path, const sparsesam_options& options)
      : context_(context), path_(std::move(path)), log_(options.log, options.log_user_data) {}

  void input(const char* name, const float* data, std::initializer_list<std::int64_t> shape) {
    nvinfer1::Dims dims{};
    dims.nbDims = static_cast<std::int32_t>(shape.size());
    std::copy(shape.begin(), shape.end(), dims.d);
    require(context_.setInputShape(name, dims), name);
    require(context_.setInputTensorAddress(name, data), name);
  }

  void output(const char* name, float* data) { require(context_.setTensorAddress(name, data), name); }

  void enqueue(cudaStream_t stream) { require(context_.enqueueV3(stream), "a kernel"); }

 private:
  void require(bool accepted, const char* what) const {
    if (!accepted) {
      throw Failure(SPARSESAM_CHECK_FAILED, path_ + " does not run (TensorRT refuses " + what + "; " + log_.reason() +
                                                "); rebuild it on this machine.");
    }
  }

  nvinfer1::IExecutionContext& context_;
  std::string path_;
  LogScope log_;
};

void copy_to_device(float* to, const float* from, std::size_t count, cudaStream_t stream) {
  check_cuda(cudaMemcpyAsync(to, from, count * sizeof(float), cudaMemcpyHostToDevice, stream), "copy to the GPU");
}

void copy_to_host(std::vector<float>& to, const float* from, cudaStream_t stream) {
  check_cuda(cudaMemcpyAsync(to.data(), from, to.size() * sizeof(float), cudaMemcpyDeviceToHost, stream),
             "copy from the GPU");
}

void copy_on_device(float* to, const float* from, std::size_t count, cudaStream_t stream) {
  check_cuda(cudaMemcpyAsync(to, from, count * sizeof(float), cudaMemcpyDeviceToDevice, stream), "copy on the GPU");
}

void wait(cudaStream_t stream) { check_cuda(cudaStreamSynchronize(stream), "finish the work on the stream"); }

[[noreturn]] void refuse(const std::string& sentence) { throw Failure(SPARSESAM_INVALID_INPUT, sentence); }

}  // namespace

InferenceContext::InferenceContext(std::shared_ptr<LoadedEngine> engine) : engine_(std::move(engine)) {
  const DeviceGuard device(engine_->options().device);
  encoder_ = engine_->create_encoder_context();
  decoder_ = engine_->create_decoder_context();
}

InferenceContext::~InferenceContext() {
  // Memory that queued work still uses must not be freed. Errors belong to that work and have nowhere to go from here.
  try {
    const DeviceGuard device(engine_->options().device);
    cudaDeviceSynchronize();
    decoder_.reset();
    encoder_.reset();
  } catch (const Failure&) {
    return;
  }
}

void InferenceContext::require_interm(const float* interm_embeddings) const {
  const bool has_interm = engine_->encoder_layout().has_interm;
  if (has_interm != (interm_embeddings != nullptr)) {
    refuse(has_interm ? "interm_embeddings is NULL, but the engine is of a SAM-HQ model; give memory for them."
                      : "interm_embeddings is given, but the engine is not of a SAM-HQ model; give NULL.");
  }
}

void InferenceContext::encode(const float* images, std::int32_t batch, float* embeddings, float* interm_embeddings,
                              cudaStream_t stream) {
  require_interm(interm_embeddings);
  const EncoderLayout& layout = engine_->encoder_layout();
  if (batch < layout.batch_min || batch > layout.batch_max) {
    refuse("batch " + std::to_string(batch) + " is outside the engine's " + std::to_string(layout.batch_min) + " to " +
           std::to_string(layout.batch_max) +
           "; give a batch inside, or rebuild with `sparsesam-export build --batch`.");
  }
  const DeviceGuard device(engine_->options().device);
  Run run(*encoder_, engine_->encoder_path(), engine_->options());
  run.input(tensor::image, images, {batch, 3, image_size, image_size});
  run.output(tensor::image_embeddings, embeddings);
  if (interm_embeddings != nullptr) {
    run.output(tensor::interm_embeddings, interm_embeddings);
  }
  run.enqueue(stream);
}

void InferenceContext::encode_image(const sparsesam_image& image, cudaStream_t stream) {
  const DeviceGuard device(engine_->options().device);
  const EncoderLayout& layout = engine_->encoder_layout();
  float* prepared = staging_.reserve(image_values);
  preprocess(image, prepared);
  original_ = {};  // should encoding fail, there is no current image
  float* on_device = image_.reserve(image_values);
  float* embeddings = embeddings_.reserve(embedding_values);
  float* interm = layout.has_interm ? interm_.reserve(layout.interm_values()) : nullptr;
  copy_to_device(on_device, prepared, image_values, stream);
  encode(on_device, 1, embeddings, interm, stream);
  wait(stream);
  original_ = {image.height, image.width};
}

void InferenceContext::use_embeddings(const float* embeddings, const float* interm_embeddings, Size original,
                                      cudaStream_t stream) {
  require_interm(interm_embeddings);
  input_size(original);  // refuses what no image has
  const DeviceGuard device(engine_->options().device);
  original_ = {};
  copy_on_device(embeddings_.reserve(embedding_values), embeddings, embedding_values, stream);
  if (interm_embeddings != nullptr) {
    const std::size_t count = engine_->encoder_layout().interm_values();
    copy_on_device(interm_.reserve(count), interm_embeddings, count, stream);
  }
  wait(stream);
  original_ = original;
}

void InferenceContext::require_prompts_fit(const DecoderPrompts& prompts) const {
  const DecoderLayout& layout = *engine_->decoder_layout();
  if (prompts.num_prompts > layout.max_prompts) {
    refuse(std::to_string(prompts.num_prompts) + " prompts are more than the " + std::to_string(layout.max_prompts) +
           " that decoder.engine takes at once; split them.");
  }
  if (prompts.num_points < layout.min_points || prompts.num_points > layout.max_points) {
    refuse("a prompt of " + std::to_string(prompts.num_points) +
           " points, box corners and padding point included, is outside the " + std::to_string(layout.min_points) +
           " to " + std::to_string(layout.max_points) + " that decoder.engine takes; give another number of points.");
  }
}

InferenceContext::Decoded InferenceContext::decode(const DecoderPrompts& prompts, const float* mask_input,
                                                   cudaStream_t stream) {
  const DecoderLayout& layout = *engine_->decoder_layout();
  const EncoderLayout& encoder = engine_->encoder_layout();
  const auto count = static_cast<std::size_t>(prompts.num_prompts);
  const std::vector<float> has_mask(count, mask_input == nullptr ? 0.0F : 1.0F);
  float* coords = coords_.reserve(prompts.coords.size());
  float* labels = labels_.reserve(prompts.labels.size());
  float* masks_in = mask_input_.reserve(count * mask_values);
  float* has_masks_in = has_mask_.reserve(count);
  float* masks = masks_.reserve(count * static_cast<std::size_t>(layout.num_masks) * mask_values);
  float* iou = iou_.reserve(count * num_iou);
  copy_to_device(coords, prompts.coords.data(), prompts.coords.size(), stream);
  copy_to_device(labels, prompts.labels.data(), prompts.labels.size(), stream);
  copy_to_device(has_masks_in, has_mask.data(), count, stream);
  if (mask_input != nullptr) {
    copy_to_device(masks_in, mask_input, count * mask_values, stream);
  } else {  // read by the graph, then dropped; but not even NaN may come of it
    check_cuda(cudaMemsetAsync(masks_in, 0, count * mask_values * sizeof(float), stream), "clear memory");
  }
  const std::int64_t n = prompts.num_prompts;
  const std::int64_t p = prompts.num_points;
  Run run(*decoder_, engine_->decoder_path(), engine_->options());
  run.input(tensor::image_embeddings, embeddings_.get(), {1, embedding_channels, grid_size, grid_size});
  if (layout.has_interm) {
    const auto& shape = encoder.interm_shape;
    run.input(tensor::interm_embeddings, interm_.get(), {shape[0], 1, shape[2], shape[3], shape[4]});
  }
  run.input(tensor::point_coords, coords, {n, p, 2});
  run.input(tensor::point_labels, labels, {n, p});
  run.input(tensor::mask_input, masks_in, {n, 1, low_res, low_res});
  run.input(tensor::has_mask_input, has_masks_in, {n});
  run.output(tensor::low_res_masks, masks);
  run.output(tensor::iou_predictions, iou);
  run.enqueue(stream);
  Decoded decoded;
  decoded.masks.resize(count * static_cast<std::size_t>(layout.num_masks) * mask_values);
  decoded.iou.resize(count * num_iou);
  copy_to_host(decoded.masks, masks, stream);
  copy_to_host(decoded.iou, iou, stream);
  wait(stream);
  return decoded;
}

void InferenceContext::predict(const sparsesam_prompts& prompts, const sparsesam_answer& answer, cudaStream_t stream) {
  if (engine_->decoder_layout() == nullptr) {
    refuse(engine_->manifest().engine.name +
           " stands without a decoder.engine; build the folder again with `sparsesam-export build`.");
  }
  if (!has_image()) {
    refuse("no image was encoded; call sparsesam_encode_image or sparsesam_use_embeddings first.");
  }
  const DecoderPrompts laid_out = decoder_prompts(prompts, original_);
  require_prompts_fit(laid_out);
  const DeviceGuard device(engine_->options().device);
  const Decoded decoded = decode(laid_out, prompts.mask_input, stream);
  write_answer(answer, decoded.masks, decoded.iou, engine_->decoder_layout()->num_masks, prompts.boxes != nullptr,
               original_);
}

}  // namespace sparsesam
