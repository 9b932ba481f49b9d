// The library's one exception, and the boundary that turns it into a status.
#pragma once

#include <algorithm>
#include <cstring>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>

#include "sparsesam/core.h"

namespace sparsesam {

// One sentence naming the offending value and the remedy, and the status it is reported with.
class Failure : public std::runtime_error {
 public:
  Failure(sparsesam_status status, const std::string& message) : std::runtime_error(message), status_(status) {}
  [[nodiscard]] sparsesam_status status() const noexcept { return status_; }

 private:
  sparsesam_status status_;
};

inline void set_message(sparsesam_error* error, const char* message) noexcept {
  if (error == nullptr) {
    return;
  }
  const std::size_t length = std::min(std::strlen(message), sizeof error->message - 1);
  std::memcpy(error->message, message, length);
  error->message[length] = '\0';
}

// Run `body`; whatever it throws becomes a status and a message.
template <typename Body>
sparsesam_status guarded(sparsesam_error* error, const Body& body) noexcept {
  try {
    set_message(error, "");
    body();
    return SPARSESAM_OK;
  } catch (const Failure& failure) {
    set_message(error, failure.what());
    return failure.status();
  } catch (const std::bad_alloc&) {
    set_message(error, "host memory is exhausted; free memory or give a smaller image.");
    return SPARSESAM_ENVIRONMENT;
  } catch (const std::exception& unexpected) {
    set_message(error, unexpected.what());
    return SPARSESAM_CHECK_FAILED;
  } catch (...) {
    set_message(error, "an exception of unknown type was stopped in libsparsesam; report it with the files used.");
    return SPARSESAM_CHECK_FAILED;
  }
}

// Refuse a null argument by its name.
template <typename Pointee>
void require(const Pointee* argument, const char* name) {
  if (argument == nullptr) {
    throw Failure(SPARSESAM_INVALID_INPUT, std::string(name) + " is NULL; give a valid pointer.");
  }
}

}  // namespace sparsesam
