// What is found out about a PNG without libpng.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace sparsesam::command {

constexpr std::size_t png_signature_size = 8;
constexpr std::size_t max_chunk_bytes = std::size_t{8} << 20U;  // but for pixels

// Refuse chunks that are longer than the file, and metadata longer than any is: libpng 1.6.39 allocates what an eXIf
// chunk claims to hold, whatever limits are set.
//
// content: a file with PNG's signature. Error INVALID_INPUT: a chunk is so long; `name` is the file's.
void require_whole_chunks(std::string_view content, const std::string& name);

// Tag 0x0112 of an EXIF block (a TIFF header and its first directory); 1, upright, where there is none.
unsigned orientation(std::string_view exif);

}  // namespace sparsesam::command
