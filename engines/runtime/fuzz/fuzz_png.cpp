// Any bytes as a PNG, as they are and with the chunks' checksums put right, which a mutation hardly ever gets past.
#include <zlib.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "decode_image.hpp"

namespace {

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
  decode_image(content);
  repair_checksums(content);
  decode_image(content);
  return 0;
}
