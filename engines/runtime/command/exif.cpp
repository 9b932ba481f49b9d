#include "exif.hpp"

#include <algorithm>
#include <cstddef>

namespace sparsesam::command {

unsigned orientation(std::string_view exif) {
  constexpr unsigned as_stored = 1;
  constexpr std::size_t header_size = 8;
  constexpr std::size_t entry_size = 12;
  constexpr unsigned orientation_tag = 0x0112;
  if (exif.size() < header_size || (exif.substr(0, 2) != "II" && exif.substr(0, 2) != "MM")) {
    return as_stored;
  }
  const auto number = [&exif, little = exif[0] == 'I'](std::size_t at, std::size_t size) {
    unsigned value = 0;
    for (std::size_t i = 0; i < size; ++i) {
      value = (value << 8U) | static_cast<unsigned char>(exif[little ? at + size - 1 - i : at + i]);
    }
    return value;
  };
  const std::size_t directory = number(4, 4);
  if (directory > exif.size() - 2) {
    return as_stored;
  }
  const std::size_t count = number(directory, 2);
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t entry = directory + 2 + i * entry_size;
    if (entry + entry_size > exif.size()) {
      break;
    }
    if (number(entry, 2) == orientation_tag) {
      return number(entry + header_size, 2);
    }
  }
  return as_stored;
}

RgbImage upright(RgbImage stored, unsigned orientation) {
  if (orientation < 2 || orientation > 8) {
    return stored;
  }
  const bool transposed = orientation >= 5;
  const bool from_below = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  const bool from_right = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  RgbImage image;
  image.height = transposed ? stored.width : stored.height;
  image.width = transposed ? stored.height : stored.width;
  image.pixels.resize(stored.pixels.size());
  std::uint8_t* pixel = image.pixels.data();
  for (std::int32_t y = 0; y < image.height; ++y) {
    for (std::int32_t x = 0; x < image.width; ++x, pixel += 3) {
      const std::int32_t row = transposed ? x : y;
      const std::int32_t column = transposed ? y : x;
      const std::ptrdiff_t from_row = from_below ? stored.height - 1 - row : row;
      const std::ptrdiff_t from_column = from_right ? stored.width - 1 - column : column;
      std::copy_n(stored.pixels.data() + (from_row * stored.width + from_column) * 3, 3, pixel);
    }
  }
  return image;
}

}  // namespace sparsesam::command
