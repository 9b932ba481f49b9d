// Image files of any supported format, upright.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "rgb_image.hpp"

namespace sparsesam::command {

// Decode a PNG or JPEG, told apart by their first bytes, as Python's `read_image` does, and apply the EXIF orientation.
// `name` is the file's, for messages.
// Error INVALID_INPUT: neither of the two, damaged, or of more pixels than `max_pixels`.
RgbImage decode_image(std::string_view content, const std::string& name, std::uint64_t max_pixels);

// Read and decode a file, of at most as many pixels as Pillow decodes (179 million). Error: as decode_image;
// unreadable.
RgbImage read_image(const std::string& path);

}  // namespace sparsesam::command
