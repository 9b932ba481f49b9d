// Structures whose first member says how much of them the caller knows.
#pragma once

#include <cstddef>
#include <cstring>
#include <string>

#include "core/failure.hpp"

namespace sparsesam {

// Refuse a size that is no release's. A larger structure than ours holds wishes that would be ignored.
inline void require_struct_size(std::size_t given, std::size_t known, const char* name) {
  if (given < sizeof(std::size_t) || given > known) {
    throw Failure(SPARSESAM_INVALID_INPUT, std::string(name) + ".struct_size is " + std::to_string(given) +
                                               ", this library knows " + std::to_string(known) +
                                               " bytes; set it to sizeof and use the library of the header's release.");
  }
}

// A copy of `*given` in which members that the caller does not know are zero.
template <typename Struct>
Struct versioned(const Struct* given, const char* name) {
  require(given, name);
  require_struct_size(given->struct_size, sizeof(Struct), name);
  Struct copy{};
  std::memcpy(&copy, given, given->struct_size);
  return copy;
}

}  // namespace sparsesam
