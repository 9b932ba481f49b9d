// Images of any size and pixels through preparation, and masks back to their size: all memory within bounds, all values
// finite.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "core/failure.hpp"
#include "core/image.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr std::size_t header = 5;
  constexpr std::int32_t max_side = 4096;
  if (size < header) {
    return 0;
  }
  const std::int32_t height = (data[0] << 8 | data[1]) % max_side;
  const std::int32_t width = (data[2] << 8 | data[3]) % max_side;
  const std::size_t gap = data[4];
  const std::size_t stride = static_cast<std::size_t>(width) * 3 + gap;
  if (static_cast<std::size_t>(height) * stride > std::size_t{1} << 20U) {
    return 0;  // large images take long and find nothing more
  }
  std::vector<std::uint8_t> pixels(static_cast<std::size_t>(height) * stride + 1);
  for (std::size_t i = 0; i < pixels.size(); ++i) {
    pixels[i] = data[i % size];
  }
  pixels.resize(pixels.size() - 1 - (height > 0 ? gap : 0));  // the last row has no gap behind it
  std::vector<float> tensor(std::size_t{3} * sparsesam::image_size * sparsesam::image_size);
  try {
    const sparsesam::Size inside = sparsesam::preprocess({pixels.data(), height, width, stride}, tensor.data());
    if (inside.height < 1 || inside.width < 1 || std::max(inside.height, inside.width) != sparsesam::image_size) {
      std::abort();
    }
    sparsesam::MaskUpscaler upscaler(tensor.data(), {height, width});
    std::vector<float> row(static_cast<std::size_t>(width));
    for (std::int32_t y = 0; y < height; ++y) {
      upscaler.row(y, row.data());
      for (const float value : row) {
        if (!std::isfinite(value)) {
          std::abort();
        }
      }
    }
  } catch (const sparsesam::Failure& failure) {
    if (failure.status() != SPARSESAM_INVALID_INPUT) {
      std::abort();
    }
  }
  return 0;
}
