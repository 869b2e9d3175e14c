// Whatever our head parser accepts, Beast's must accept too and understand alike: the same method, target, fields and
// framing. The other way round we may be stricter. The first byte chooses between request and response, and where the
// bytes are split: a prefix must never be refused that the whole is not.

#include <boost/beast/http.hpp>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "sidecar/proxy/chunked.hpp"
#include "sidecar/proxy/http_head.hpp"

namespace http = boost::beast::http;
using namespace sidecar;

namespace {

void must(bool holds) {
  if (!holds) std::abort();
}

template <class Head, class Parser>
void same_fields(const Head& ours, const Parser& theirs) {
  // Beast keeps the lines of one name together.
  std::size_t count = 0;
  for (auto it = theirs.get().begin(); it != theirs.get().end(); ++it) ++count;
  must(count == ours.fields.size());
  for (std::size_t i = 0; i < ours.fields.size(); ++i) {
    const std::string_view name = ours.fields[i].name;
    auto [it, last] = theirs.get().equal_range(boost::beast::string_view(name.data(), name.size()));
    for (std::size_t before = 0; before < i; ++before) {
      if (iequals(ours.fields[before].name, name)) ++it;
    }
    must(it != last);
    must(std::string_view(it->value().data(), it->value().size()) == ours.fields[i].value);
  }
}

template <class Parser>
boost::system::error_code read_with(Parser& parser, std::string_view text) {
  parser.header_limit(1024 * 1024);
  parser.body_limit(boost::none);
  boost::system::error_code error;
  parser.put(boost::asio::buffer(text.data(), text.size()), error);
  return error;
}

void request(std::string_view text, std::size_t split) {
  request_head head;
  const head_status status = parse(text, {}, head);
  request_head part;
  const head_status before = parse(text.substr(0, split), {}, part);
  if (status == head_status::complete && split < head.size) must(before == head_status::incomplete);
  if (before == head_status::bad) must(status == head_status::bad);
  if (status != head_status::complete) return;
  if (text.starts_with("\r\n")) {
    text.remove_prefix(2);
    head.size -= 2;
  }

  http::request_parser<http::empty_body> theirs;
  const auto error = read_with(theirs, text.substr(0, head.size));
  must(!error && theirs.is_header_done());
  must(std::string_view(theirs.get().method_string().data(), theirs.get().method_string().size()) == head.method);
  must(std::string_view(theirs.get().target().data(), theirs.get().target().size()) == head.target);
  must(theirs.get().version() == 10U + static_cast<unsigned>(head.minor));
  same_fields(head, theirs);
  must(theirs.chunked() == (head.framing == body_framing::chunked));
  must(theirs.content_length().has_value() == head.has_length);
  if (head.has_length) must(*theirs.content_length() == head.content_length);
}

void response(std::string_view text, std::size_t split, bool to_head) {
  response_head head;
  const head_status status = parse(text, {}, to_head, head);
  response_head part;
  const head_status before = parse(text.substr(0, split), {}, to_head, part);
  if (status == head_status::complete && split < head.size) must(before == head_status::incomplete);
  if (before == head_status::bad) must(status == head_status::bad);
  if (status != head_status::complete) return;

  if (text[12] == '\r') return;  // we forgive a missing space after the status, Beast does not

  http::response_parser<http::empty_body> theirs;
  theirs.skip(true);  // the head only, whatever the body
  const auto error = read_with(theirs, text.substr(0, head.size));
  must(!error && theirs.is_header_done());
  must(theirs.get().result_int() == static_cast<unsigned>(head.status));
  same_fields(head, theirs);
  const bool bodiless = to_head || head.status < 200 || head.status == 204 || head.status == 304;
  if (!bodiless) must(theirs.chunked() == (head.framing == body_framing::chunked));
}

/// Decoded at once or byte by byte, the outcome is one.
void chunks(std::string_view text) {
  chunked_decoder whole, pieces;
  std::string all(text);
  const auto at_once = whole.decode(all.data(), all.size());
  std::string body;
  std::size_t at = 0;
  auto state = chunked_decoder::status::more;
  while (at < text.size() && state == chunked_decoder::status::more) {
    char byte = text[at++];
    const auto step = pieces.decode(&byte, 1);
    body.append(&byte, step.decoded);
    state = step.state;
  }
  must(state == at_once.state);
  if (state != chunked_decoder::status::bad) must(body == std::string_view(all).substr(0, at_once.decoded));
  if (state == chunked_decoder::status::done) must(at == at_once.consumed && whole.trailer() == pieces.trailer());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 2, size - 2);
  const std::size_t split = text.empty() ? 0 : data[1] * text.size() / 256;
  switch (data[0] % 4) {
    case 0:
      request(text, split);
      break;
    case 1:
      response(text, split, false);
      break;
    case 2:
      response(text, split, true);
      break;
    default:
      chunks(text);
      break;
  }
  return 0;
}
