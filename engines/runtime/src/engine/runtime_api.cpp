// The C functions that run engines.
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <utility>

#include "core/failure.hpp"
#include "core/versioned.hpp"
#include "engine/context.hpp"
#include "engine/engine.hpp"
#include "sparsesam/runtime.h"

// A context shares its engine, which so lives until the last of them is destroyed.
struct sparsesam_engine {
  std::shared_ptr<sparsesam::LoadedEngine> loaded;
};

struct sparsesam_context {
  explicit sparsesam_context(std::shared_ptr<sparsesam::LoadedEngine> engine) : inference(std::move(engine)) {}
  sparsesam::InferenceContext inference;
};

namespace {

using sparsesam::guarded;
using sparsesam::require;

sparsesam_info describe(const sparsesam::LoadedEngine& engine) {
  const sparsesam::Manifest& manifest = engine.manifest();
  const sparsesam::EncoderLayout& encoder = engine.encoder_layout();
  sparsesam_info info{};
  info.family = manifest.family.c_str();
  info.precision = manifest.precision.c_str();
  info.builder_version = manifest.builder_version.c_str();
  info.batch_min = encoder.batch_min;
  info.batch_opt = manifest.batch_opt;
  info.batch_max = encoder.batch_max;
  std::copy(encoder.interm_shape.begin(), encoder.interm_shape.end(), info.interm_shape);
  if (const sparsesam::DecoderLayout* decoder = engine.decoder_layout()) {
    info.has_decoder = 1;
    info.num_masks = decoder->num_masks;
    info.max_prompts = decoder->max_prompts;
    info.max_points = decoder->max_points;
  }
  return info;
}

cudaStream_t as_stream(void* stream) { return static_cast<cudaStream_t>(stream); }

}  // namespace

extern "C" {

sparsesam_status sparsesam_engine_load(const char* path, const sparsesam_options* options, sparsesam_engine** engine,
                                       sparsesam_error* error) {
  return guarded(error, [&] {
    require(engine, "engine");
    *engine = nullptr;
    require(path, "path");
    const sparsesam_options chosen =
        options == nullptr ? sparsesam_options{} : sparsesam::versioned(options, "sparsesam_options");
    auto handle = std::make_unique<sparsesam_engine>();
    handle->loaded = std::make_shared<sparsesam::LoadedEngine>(path, chosen);
    *engine = handle.release();
  });
}

void sparsesam_engine_destroy(sparsesam_engine* engine) { delete engine; }

sparsesam_status sparsesam_engine_info(const sparsesam_engine* engine, sparsesam_info* info, sparsesam_error* error) {
  return guarded(error, [&] {
    require(engine, "engine");
    require(info, "info");
    const std::size_t size = info->struct_size;
    sparsesam::require_struct_size(size, sizeof(sparsesam_info), "sparsesam_info");
    sparsesam_info filled = describe(*engine->loaded);
    filled.struct_size = size;
    std::memcpy(info, &filled, size);
  });
}

sparsesam_status sparsesam_context_create(sparsesam_engine* engine, sparsesam_context** context,
                                          sparsesam_error* error) {
  return guarded(error, [&] {
    require(context, "context");
    *context = nullptr;
    require(engine, "engine");
    *context = std::make_unique<sparsesam_context>(engine->loaded).release();
  });
}

void sparsesam_context_destroy(sparsesam_context* context) { delete context; }

sparsesam_status sparsesam_encode(sparsesam_context* context, const float* images, int32_t batch, float* embeddings,
                                  float* interm_embeddings, void* stream, sparsesam_error* error) {
  return guarded(error, [&] {
    require(context, "context");
    require(images, "images");
    require(embeddings, "embeddings");
    context->inference.encode(images, batch, embeddings, interm_embeddings, as_stream(stream));
  });
}

sparsesam_status sparsesam_encode_image(sparsesam_context* context, const sparsesam_image* image, void* stream,
                                        sparsesam_error* error) {
  return guarded(error, [&] {
    require(context, "context");
    require(image, "image");
    require(image->data, "image.data");
    context->inference.encode_image(*image, as_stream(stream));
  });
}

sparsesam_status sparsesam_use_embeddings(sparsesam_context* context, const float* embeddings,
                                          const float* interm_embeddings, int32_t height, int32_t width, void* stream,
                                          sparsesam_error* error) {
  return guarded(error, [&] {
    require(context, "context");
    require(embeddings, "embeddings");
    context->inference.use_embeddings(embeddings, interm_embeddings, {height, width}, as_stream(stream));
  });
}

sparsesam_status sparsesam_embeddings(const sparsesam_context* context, const float** embeddings,
                                      const float** interm_embeddings, sparsesam_error* error) {
  return guarded(error, [&] {
    require(context, "context");
    require(embeddings, "embeddings");
    if (!context->inference.has_image()) {
      throw sparsesam::Failure(SPARSESAM_INVALID_INPUT, "no image was encoded; call sparsesam_encode_image first.");
    }
    *embeddings = context->inference.embeddings();
    if (interm_embeddings != nullptr) {
      *interm_embeddings = context->inference.interm_embeddings();
    }
  });
}

sparsesam_status sparsesam_predict(sparsesam_context* context, const sparsesam_prompts* prompts,
                                   const sparsesam_answer* answer, void* stream, sparsesam_error* error) {
  return guarded(error, [&] {
    require(context, "context");
    const sparsesam_prompts given = sparsesam::versioned(prompts, "sparsesam_prompts");
    const sparsesam_answer wanted = sparsesam::versioned(answer, "sparsesam_answer");
    context->inference.predict(given, wanted, as_stream(stream));
  });
}

}  // extern "C"
