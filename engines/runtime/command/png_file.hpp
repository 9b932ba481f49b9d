// PNG files: images in, masks out.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sparsesam::command {

struct RgbImage {
  std::vector<std::uint8_t> pixels;  // (height, width, 3)
  std::int32_t height = 0;
  std::int32_t width = 0;
};

// Decode a PNG of any kind as Python's `read_image` does: alpha dropped, palettes looked up, 16-bit grey divided by 257
// and rounded, other 16-bit pixels cut to their high byte. `name` is the file's, for messages.
// Error INVALID_INPUT: no PNG, damaged, stored rotated (EXIF), or of more pixels than `max_pixels`.
RgbImage decode_png(std::string_view content, const std::string& name, std::uint64_t max_pixels);

// Read and decode a file, of at most as many pixels as Pillow decodes (179 million). Error: as decode_png; unreadable.
RgbImage read_png(const std::string& path);

// Write a mask, (height, width) of 0 and 1, as 8-bit grey 0 and 255, complete or not at all.
// Error INVALID_INPUT: the file cannot be written; ENVIRONMENT: the disk is full.
void write_mask_png(const std::string& path, const std::vector<std::uint8_t>& mask, std::int32_t height,
                    std::int32_t width);

}  // namespace sparsesam::command
