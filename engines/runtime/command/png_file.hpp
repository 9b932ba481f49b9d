// PNG files.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "rgb_image.hpp"

namespace sparsesam::command {

bool is_png(std::string_view content);

// Decode a PNG of any kind as Pillow does: alpha dropped, palettes looked up, 16-bit grey divided by 257 and rounded,
// other 16-bit pixels cut to their high byte. `name` is the file's, for messages.
// Error INVALID_INPUT: damaged, or of more pixels than `max_pixels`.
StoredImage decode_png(std::string_view content, const std::string& name, std::uint64_t max_pixels);

}  // namespace sparsesam::command
