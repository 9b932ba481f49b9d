#include "log.hpp"

#include <atomic>
#include <cstdio>

namespace sparsesam {
namespace {
std::atomic<nvinfer1::ILoggerFinder*> loggerFinder{nullptr};
}  // namespace

void log(nvinfer1::ILogger::Severity severity, std::string const& message) noexcept {
  auto* const finder = loggerFinder.load();
  if (auto* const logger = finder ? finder->findLogger() : nullptr) {
    logger->log(severity, ("sparsesam: " + message).c_str());
  } else {
    std::fprintf(stderr, "sparsesam: %s\n", message.c_str());
  }
}

void setLogger(nvinfer1::ILoggerFinder* finder) noexcept { loggerFinder.store(finder); }

}  // namespace sparsesam
