// JPEG files.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "rgb_image.hpp"

namespace sparsesam::command {

bool is_jpeg(std::string_view content);

// Decode a JPEG as Pillow does, to the bit with libjpeg-turbo: grey, YCbCr, RGB, and CMYK and YCCK, which are taken to
// be stored inverted, as Adobe's programs store them. `name` is the file's, for messages.
// Error INVALID_INPUT: truncated or damaged (Pillow shows grey where data are damaged), of another number of channels,
// or of more pixels than `max_pixels`.
StoredImage decode_jpeg(std::string_view content, const std::string& name, std::uint64_t max_pixels);

}  // namespace sparsesam::command
