// What the decoders of image files hand on, and what they refuse in the same words.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "sparsesam/engine.hpp"

namespace sparsesam::command {

struct RgbImage {
  std::vector<std::uint8_t> pixels;  // (height, width, 3)
  std::int32_t height = 0;
  std::int32_t width = 0;
};

// An image as it lies in its file.
struct StoredImage {
  RgbImage image;
  std::string exif;  // a TIFF header and its directories, empty without EXIF
};

[[noreturn]] inline void refuse_image(const std::string& name, const std::string& problem) {
  throw Error(SPARSESAM_INVALID_INPUT, ("image " + name + " " + problem).c_str());
}

[[noreturn]] inline void refuse_damaged(const std::string& name, const std::string& reason) {
  refuse_image(name, "cannot be decoded (" + reason + "); save it again as PNG or JPEG.");
}

// Error INVALID_INPUT: an image of this size has more than `max_pixels`.
inline void require_decodable_size(const std::string& name, std::uint64_t width, std::uint64_t height,
                                   std::uint64_t max_pixels) {
  if (width * height > max_pixels) {
    refuse_image(name, "has " + std::to_string(width * height) + " pixels, more than the " +
                           std::to_string(max_pixels) + " that are decoded; scale it down first.");
  }
}

}  // namespace sparsesam::command
