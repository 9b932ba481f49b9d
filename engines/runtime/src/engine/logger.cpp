#include "engine/logger.hpp"

#include <new>

namespace sparsesam {
namespace {

using Severity = nvinfer1::ILogger::Severity;

// Set while a call of this library is on this thread's stack, null otherwise.
thread_local LogScope* current = nullptr;

class Logger : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (current != nullptr && message != nullptr) {
      current->receive(severity, message);
    }
  }
};

}  // namespace

LogScope::LogScope(sparsesam_log log, void* user_data) : log_(log), user_data_(user_data), outer_(current) {
  current = this;
}

LogScope::~LogScope() { current = outer_; }

void LogScope::receive(Severity severity, const char* message) noexcept {
  if (severity <= Severity::kERROR && first_error_.empty()) {
    try {
      first_error_ = message;
    } catch (const std::bad_alloc&) {
      first_error_.clear();  // then the call fails without TensorRT's reason
    }
  }
  if (log_ != nullptr && severity <= Severity::kINFO) {
    log_(user_data_, static_cast<int32_t>(severity), message);
  }
}

std::string LogScope::reason() const {
  return first_error_.empty() ? "TensorRT gives no reason" : "TensorRT says: " + first_error_;
}

nvinfer1::ILogger& logger() {
  static Logger instance;
  return instance;
}

}  // namespace sparsesam
