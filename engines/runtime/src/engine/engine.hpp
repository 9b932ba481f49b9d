// A loaded folder: manifest, runtime with its plugins, encoder and decoder.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "core/checks.hpp"
#include "core/layout.hpp"
#include "sparsesam/runtime.h"

namespace sparsesam {

class LoadedEngine {
 public:
  // Check everything, then load. Failures: those of check_folder; ENVIRONMENT without a driver or GPU, for a plugin
  // library that does not load, and for headers of another TensorRT major than the library; CHECK_FAILED when TensorRT
  // refuses the engine.
  LoadedEngine(const std::string& path, const sparsesam_options& options);

  [[nodiscard]] const Manifest& manifest() const { return folder_.manifest; }
  [[nodiscard]] const sparsesam_options& options() const { return options_; }
  [[nodiscard]] const EncoderLayout& encoder_layout() const { return encoder_layout_; }
  [[nodiscard]] const DecoderLayout* decoder_layout() const { return decoder_layout_ ? &*decoder_layout_ : nullptr; }
  [[nodiscard]] std::string encoder_path() const { return (folder_.folder / manifest().engine.name).string(); }
  [[nodiscard]] std::string decoder_path() const;  // empty without a decoder

  // Execution contexts, one thread at a time: TensorRT promises thread safety for executing them alone.
  std::unique_ptr<nvinfer1::IExecutionContext> create_encoder_context();
  std::unique_ptr<nvinfer1::IExecutionContext> create_decoder_context();

 private:
  std::unique_ptr<nvinfer1::ICudaEngine> deserialise(const FileRecord& record);
  std::unique_ptr<nvinfer1::IExecutionContext> create_context(nvinfer1::ICudaEngine& engine, const std::string& path);
  void load_plugins();

  EngineFolder folder_;
  sparsesam_options options_;
  // In this order: engines go before the runtime whose plugins they use.
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> encoder_;
  std::unique_ptr<nvinfer1::ICudaEngine> decoder_;
  EncoderLayout encoder_layout_;
  std::optional<DecoderLayout> decoder_layout_;
  std::mutex creating_;
};

}  // namespace sparsesam
