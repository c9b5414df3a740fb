// Reads a stream of server-sent events. An EventSource could not send the header with the user's credentials.

/** Yields the events of a response as objects with the fields that each has: id, event, data, retry. */
export async function* events(response) {
  let rest = "";
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let read = await reader.read(); !read.done; read = await reader.read()) {
    const found = (rest + read.value).split("\n\n");
    rest = found.pop();
    for (const event of found) yield parsed(event);
  }
}

/** This server writes each field on one line. */
const parsed = event => Object.fromEntries(event.split("\n").map(line => line.split(/: ?(.*)/s, 2)));
