// TensorRT's messages, to where the call that caused them wants them.
#pragma once

#include <NvInferRuntime.h>

#include <string>

#include "sparsesam/runtime.h"

namespace sparsesam {

// Collects what TensorRT says on this thread while it exists: errors for the message of a failing call, everything for
// the user's callback. Nestable; the innermost collects.
class LogScope {
 public:
  LogScope(sparsesam_log log, void* user_data);
  ~LogScope();
  LogScope(const LogScope&) = delete;
  LogScope& operator=(const LogScope&) = delete;
  LogScope(LogScope&&) = delete;
  LogScope& operator=(LogScope&&) = delete;

  void receive(nvinfer1::ILogger::Severity severity, const char* message) noexcept;

  // "TensorRT says: ...", the first error, which later ones follow from; "TensorRT gives no reason" without one.
  [[nodiscard]] std::string reason() const;

 private:
  sparsesam_log log_;
  void* user_data_;
  LogScope* outer_;
  std::string first_error_;
};

// The logger of every runtime in this process. TensorRT keeps the first one it is given for all later runtimes, so it
// has to live as long as the process; it has no state of its own.
nvinfer1::ILogger& logger();

}  // namespace sparsesam
