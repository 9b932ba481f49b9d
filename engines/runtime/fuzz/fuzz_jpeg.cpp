// Any bytes as a JPEG.
#include <cstddef>
#include <cstdint>
#include <string>

#include "decode_image.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  decode_image({reinterpret_cast<const char*>(data), size});
  return 0;
}
