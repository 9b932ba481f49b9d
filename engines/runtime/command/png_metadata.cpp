#include "png_metadata.hpp"

#include "sparsesam/engine.hpp"

namespace sparsesam::command {
namespace {

[[noreturn]] void refuse(const std::string& sentence) { throw Error(SPARSESAM_INVALID_INPUT, sentence.c_str()); }

// A big-endian (or, in EXIF, perhaps little-endian) number of up to four bytes.
unsigned number_at(std::string_view bytes, std::size_t at, std::size_t size, bool little = false) {
  unsigned value = 0;
  for (std::size_t i = 0; i < size; ++i) {
    value = (value << 8U) | static_cast<unsigned char>(bytes[little ? at + size - 1 - i : at + i]);
  }
  return value;
}

}  // namespace

void require_whole_chunks(std::string_view content, const std::string& name) {
  constexpr std::size_t overhead = 12;  // length, name, checksum
  std::string_view rest = content.substr(png_signature_size);
  for (std::string_view kind; kind != "IEND";) {
    const std::size_t length = rest.size() < overhead ? 0 : number_at(rest, 0, 4);
    if (rest.size() < overhead + length) {
      refuse("image " + name + " cannot be decoded (the file ends too early); save it again as PNG.");
    }
    kind = rest.substr(4, 4);
    if (length > max_chunk_bytes && kind != "IDAT") {
      refuse("image " + name + " holds " + std::to_string(length) +
             " bytes of metadata in one piece; save it again without.");
    }
    rest.remove_prefix(overhead + length);
  }
}

unsigned orientation(std::string_view exif) {
  constexpr unsigned upright = 1;
  constexpr std::size_t header_size = 8;
  constexpr std::size_t entry_size = 12;
  constexpr unsigned orientation_tag = 0x0112;
  if (exif.size() < header_size || (exif.substr(0, 2) != "II" && exif.substr(0, 2) != "MM")) {
    return upright;
  }
  const bool little = exif[0] == 'I';
  const auto number = [&](std::size_t at, std::size_t size) { return number_at(exif, at, size, little); };
  const std::size_t directory = number(4, 4);
  if (directory > exif.size() - 2) {
    return upright;
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
  return upright;
}

}  // namespace sparsesam::command
