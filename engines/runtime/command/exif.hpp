// How a camera was held.
#pragma once

#include <string_view>

#include "rgb_image.hpp"

namespace sparsesam::command {

// Tag 0x0112 of an EXIF block (a TIFF header and its first directory); 1, upright, where there is none.
unsigned orientation(std::string_view exif);

// The image turned and mirrored as orientations 2 to 8 ask for; with any other it is upright as it is.
RgbImage upright(RgbImage stored, unsigned orientation);

}  // namespace sparsesam::command
