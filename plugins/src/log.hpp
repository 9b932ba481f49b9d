//! Messages through TensorRT's logger, where the host has handed one over.
#pragma once
#include <NvInferRuntime.h>

#include <string>

namespace sparsesam {

void log(nvinfer1::ILogger::Severity severity, std::string const& message) noexcept;

inline void logError(std::string const& message) noexcept { log(nvinfer1::ILogger::Severity::kERROR, message); }
inline void logWarning(std::string const& message) noexcept { log(nvinfer1::ILogger::Severity::kWARNING, message); }

void setLogger(nvinfer1::ILoggerFinder* finder) noexcept;

}  // namespace sparsesam
