// sparsesam-check: is a copied engine folder complete, unchanged and of use on a machine? Needs no TensorRT, no GPU.
#include <getopt.h>

#include <array>
#include <cstdio>
#include <string_view>

#include "sparsesam/core.h"

namespace {

constexpr const char* usage =
    "usage: sparsesam-check DIR [--tensorrt VERSION] [--compute-capability SM89]\n"
    "\n"
    "Checks a folder made by `sparsesam-export build --builder tensorrt`: manifest, parity, builder, sizes and\n"
    "SHA-256 of engines and plugin libraries, and the TensorRT version and GPU it is to run on, if given.\n"
    "Exit codes: 0 ok, 1 a check failed, 2 unusable input, 3 something is missing on this machine.\n";

int usage_error() {
  std::fputs(usage, stderr);
  return SPARSESAM_INVALID_INPUT;
}

}  // namespace

int main(int argc, char** argv) {
  constexpr std::array<option, 5> options{{{"tensorrt", required_argument, nullptr, 't'},
                                           {"compute-capability", required_argument, nullptr, 'c'},
                                           {"help", no_argument, nullptr, 'h'},
                                           {"version", no_argument, nullptr, 'v'},
                                           {nullptr, 0, nullptr, 0}}};
  const char* tensorrt = nullptr;
  const char* compute_capability = nullptr;
  // NOLINTNEXTLINE(concurrency-mt-unsafe): there is one thread
  for (int found = 0; (found = getopt_long(argc, argv, "h", options.data(), nullptr)) != -1;) {
    switch (found) {
      case 't':
        tensorrt = optarg;
        break;
      case 'c':
        compute_capability = optarg;
        break;
      case 'h':
        std::fputs(usage, stdout);
        return SPARSESAM_OK;
      case 'v':
        std::printf("sparsesam-check %s\n", sparsesam_version());
        return SPARSESAM_OK;
      default:
        return usage_error();
    }
  }
  if (argc - optind != 1) {
    return usage_error();
  }
  sparsesam_error error;
  const sparsesam_status status = sparsesam_check_folder(argv[optind], tensorrt, compute_capability, &error);
  if (status == SPARSESAM_OK) {
    std::printf("ok: %s\n", argv[optind]);
  } else {
    std::fprintf(stderr, "error: %s\n", error.message);
  }
  return status;
}
