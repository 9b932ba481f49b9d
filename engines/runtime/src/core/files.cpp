#include "core/files.hpp"

#include <openssl/evp.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <string>
#include <system_error>

#include "core/failure.hpp"

namespace sparsesam {
namespace {

namespace fs = std::filesystem;

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

std::string reason(int error_number) {
  std::string text = std::generic_category().message(error_number);
  if (!text.empty() && text[0] >= 'A' && text[0] <= 'Z') {
    text[0] = static_cast<char>(text[0] - 'A' + 'a');
  }
  return text;
}

[[noreturn]] void unreadable(const fs::path& path, int error_number, const std::string& remedy) {
  throw Failure(SPARSESAM_INVALID_INPUT, "cannot read " + path.string() + ": " + reason(error_number) + "; " + remedy);
}

File open_file(const fs::path& path, const std::string& remedy) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::directory) {
    unreadable(path, EISDIR, remedy);
  }
  if (fs::exists(status) && status.type() != fs::file_type::regular) {  // a pipe or device may never end
    throw Failure(SPARSESAM_INVALID_INPUT, "cannot read " + path.string() + ": not a regular file; " + remedy);
  }
  File file(std::fopen(path.c_str(), "rb"));
  if (!file) {
    unreadable(path, errno, remedy);
  }
  return file;
}

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new()) {
    if (!context_ || EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) != 1) {
      throw Failure(SPARSESAM_ENVIRONMENT, "libcrypto offers no SHA-256; install OpenSSL's default provider.");
    }
  }

  void update(const char* data, std::size_t size) { EVP_DigestUpdate(context_.get(), data, size); }

  std::string hex() {
    std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
    unsigned int size = 0;
    EVP_DigestFinal_ex(context_.get(), digest.data(), &size);
    constexpr std::string_view digits = "0123456789abcdef";
    std::string text;
    for (unsigned int i = 0; i < size; ++i) {
      text += digits[digest.at(i) >> 4U];
      text += digits[digest.at(i) & 15U];
    }
    return text;
  }

 private:
  struct Free {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  };
  std::unique_ptr<EVP_MD_CTX, Free> context_;
};

}  // namespace

Content read_file(const fs::path& path, std::size_t max_bytes, const std::string& what, const std::string& remedy) {
  const File file = open_file(path, remedy);
  std::error_code error;
  const std::uintmax_t size = fs::file_size(path, error);
  if (error) {
    unreadable(path, error.value(), remedy);
  }
  if (size > max_bytes) {
    throw Failure(SPARSESAM_INVALID_INPUT, path.string() + " is larger than any " + what + " (" +
                                               std::to_string(max_bytes >> 20U) + " MiB); name another file.");
  }
  Content content{std::unique_ptr<char[]>(new char[size]), 0};  // NOLINT(modernize-avoid-c-arrays)
  content.size = std::fread(content.data.get(), 1, size, file.get());
  if (std::ferror(file.get()) != 0) {
    unreadable(path, errno, remedy);
  }
  return content;
}

bool is_file(const fs::path& path) {
  std::error_code error;
  return fs::is_regular_file(path, error);
}

std::string sha256(std::string_view content) {
  Sha256 digest;
  digest.update(content.data(), content.size());
  return digest.hex();
}

std::string sha256_file(const fs::path& path) {
  const std::string remedy = "check its permissions.";
  const File file = open_file(path, remedy);
  std::string piece(std::size_t{1} << 20U, '\0');
  Sha256 digest;
  while (std::feof(file.get()) == 0 && std::ferror(file.get()) == 0) {
    digest.update(piece.data(), std::fread(piece.data(), 1, piece.size(), file.get()));
  }
  if (std::ferror(file.get()) != 0) {
    unreadable(path, errno, remedy);
  }
  return digest.hex();
}

}  // namespace sparsesam
