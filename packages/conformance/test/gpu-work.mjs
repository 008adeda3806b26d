// Work of a GPU of packages/native/test/fake-cuda: an event is two numbers, how often it was recorded and how often that was reached.
import { allocate } from '@kvx/native'

const unfinished = []

export function start() {
  const memory = allocate(4096)
  const event = new BigUint64Array(memory.view(0, 16).buffer, memory.view(0, 16).byteOffset, 2)
  event[0] = 1n
  unfinished.push(event)
  return { event: memory.address }
}

export function finish() {
  for (const event of unfinished.splice(0)) event[1] = event[0]
}
