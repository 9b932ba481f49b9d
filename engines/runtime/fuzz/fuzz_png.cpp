// Any bytes as a PNG, as they are and with the chunks' checksums put right, which a mutation hardly ever gets past: an
// image of the size it claims, or one sentence.
#include <zlib.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "png_file.hpp"
#include "sparsesam/engine.hpp"

namespace {

void decode(const std::string& content) {
  constexpr std::uint64_t max_pixels = 1U << 16U;
  try {
    const sparsesam::command::RgbImage image = sparsesam::command::decode_png(content, "fuzz.png", max_pixels);
    if (image.pixels.size() != static_cast<std::size_t>(image.height) * static_cast<std::size_t>(image.width) * 3) {
      std::abort();
    }
  } catch (const sparsesam::Error& error) {
    if (error.status() != SPARSESAM_INVALID_INPUT) {
      std::abort();
    }
  }
}

// Four bytes, the most significant first.
std::size_t number_at(const std::string& content, std::size_t at) {
  std::size_t value = 0;
  for (std::size_t i = 0; i < 4; ++i) {
    value = value << 8U | static_cast<unsigned char>(content[at + i]);
  }
  return value;
}

void repair_checksums(std::string& content) {
  constexpr std::size_t signature = 8;
  for (std::size_t chunk = signature; chunk + 12 <= content.size();) {
    const std::size_t length = number_at(content, chunk);
    const std::size_t end = chunk + 8 + length;
    if (end + 4 > content.size()) {
      return;
    }
    const uLong checksum =
        crc32(0, reinterpret_cast<const Bytef*>(content.data() + chunk + 4), static_cast<uInt>(length + 4));
    for (std::size_t i = 0; i < 4; ++i) {
      content[end + i] = static_cast<char>(checksum >> (24 - 8 * i));
    }
    chunk = end + 4;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string content(reinterpret_cast<const char*>(data), size);
  decode(content);
  repair_checksums(content);
  decode(content);
  return 0;
}
