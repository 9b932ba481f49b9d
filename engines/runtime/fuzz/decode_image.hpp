// What fuzzed image files must come to: an image of the size it claims, or one sentence.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include "image_file.hpp"
#include "sparsesam/engine.hpp"

inline void decode_image(const std::string& content) {
  constexpr std::uint64_t max_pixels = 1U << 16U;
  try {
    const sparsesam::command::RgbImage image = sparsesam::command::decode_image(content, "fuzzed", max_pixels);
    if (image.pixels.size() != static_cast<std::size_t>(image.height) * static_cast<std::size_t>(image.width) * 3) {
      std::abort();
    }
  } catch (const sparsesam::Error& error) {
    if (error.status() != SPARSESAM_INVALID_INPUT || std::strchr(error.what(), '\n') != nullptr) {
      std::abort();
    }
  }
}
