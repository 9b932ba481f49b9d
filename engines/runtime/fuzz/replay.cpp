// Stands in for libFuzzer where the compiler has none: every file of a corpus, then a number of mutations of them, the
// same in every run.  usage: fuzz_X CORPUS RUNS
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using Input = std::vector<std::uint8_t>;

std::vector<Input> read_corpus(const char* folder) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  std::vector<Input> corpus;
  for (const auto& path : paths) {
    std::ifstream file(path, std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return corpus;
}

class Mutator {
 public:
  explicit Mutator(const std::vector<Input>& corpus) : corpus_(corpus) {}

  Input next() {
    Input input = corpus_[below(corpus_.size())];
    for (std::size_t i = 0, count = 1 + below(4); i < count; ++i) {
      mutate(input);
    }
    return input;
  }

 private:
  // A number in [0, limit), 0 where there is none.
  std::size_t below(std::size_t limit) { return limit == 0 ? 0 : random_() % limit; }

  void mutate(Input& input) {
    const std::size_t at = below(input.size() + 1);
    const auto position = input.begin() + static_cast<std::ptrdiff_t>(at);
    switch (below(6)) {
      case 0:
        input.insert(position, static_cast<std::uint8_t>(below(256)));
        break;
      case 1:
        input.resize(at);
        break;
      case 2: {  // the rest of another
        const Input& other = corpus_[below(corpus_.size())];
        const auto from = other.begin() + static_cast<std::ptrdiff_t>(below(other.size() + 1));
        input.resize(at);
        input.insert(input.end(), from, other.end());
        break;
      }
      case 3:
        if (at < input.size()) {
          input.erase(position,
                      position + static_cast<std::ptrdiff_t>(1 + below(std::min<std::size_t>(input.size() - at, 16))));
        }
        break;
      case 4:
        if (at < input.size()) {
          input[at] = static_cast<std::uint8_t>(input[at] ^ (1U << below(8)));
        }
        break;
      default:
        if (at < input.size()) {
          constexpr std::uint8_t extremes[] = {0, 0x7f, 0x80, 0xff, '"', '{', '[', '-'};
          input[at] = extremes[below(sizeof extremes)];
        }
    }
  }

  const std::vector<Input>& corpus_;
  std::mt19937_64 random_{20261121};
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s CORPUS RUNS\n", argv[0]);
    return 2;
  }
  const std::vector<Input> corpus = read_corpus(argv[1]);
  const std::size_t runs = std::strtoull(argv[2], nullptr, 10);
  if (corpus.empty()) {
    std::fprintf(stderr, "%s: no file in %s\n", argv[0], argv[1]);
    return 2;
  }
  for (const Input& input : corpus) {
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  Mutator mutator(corpus);
  for (std::size_t i = 0; i < runs; ++i) {
    const Input input = mutator.next();
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  std::printf("%zu files and %zu mutations\n", corpus.size(), runs);
  return 0;
}
