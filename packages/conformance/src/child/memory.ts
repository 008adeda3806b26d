/** Memory of this process: filled, marked and read as the test says. */
import type { Memory } from '@kvx/contract'
import {
  allocate as allocateMemory,
  type AllocatedGpuMemory,
  type AllocatedMemory,
} from '@kvx/native'
import { hashOf, pattern } from '../kit/pattern.ts'
import { init } from './host.ts'
import { Table } from './table.ts'

export const memories = new Table<AllocatedMemory | AllocatedGpuMemory>('memory')

async function write(memory: Memory, offset: number, bytes: Uint8Array): Promise<void> {
  const one = memory as AllocatedMemory | AllocatedGpuMemory
  if (one.kind === 'cpu') one.view(offset, bytes.length).set(bytes)
  else await one.write(offset, bytes)
}

async function bytesOf(memory: Memory, offset: number, length: number): Promise<Uint8Array> {
  const one = memory as AllocatedMemory | AllocatedGpuMemory
  return one.kind === 'cpu' ? one.view(offset, length) : one.read(offset, length)
}

export const memoryCommands = {
  async allocate(bytes: number) {
    const { kind, device = 0 } = init.memory
    if (kind === 'hip') throw new Error('This suite cannot allocate memory of AMD GPUs.')
    const memory =
      kind === 'cuda' ? await allocateMemory(bytes, { kind, device }) : allocateMemory(bytes)
    const { address, fd } = memory
    return { memory: memories.add(memory), address, fd }
  },
  /** With bytes of which each place and each seed has its own. */
  fill(memory: number, seed: number): Promise<void> {
    const one = memories.get(memory)
    return write(one, 0, pattern(seed, one.bytes))
  },
  /** With one value. */
  mark(memory: number, value: number): Promise<void> {
    const one = memories.get(memory)
    return write(one, 0, Buffer.alloc(one.bytes, value))
  },
  async read(memory: number, offset: number, length: number): Promise<Uint8Array> {
    return Uint8Array.from(await bytesOf(memories.get(memory), offset, length))
  },
  async hash(memory: number): Promise<string> {
    const one = memories.get(memory)
    return hashOf(await bytesOf(one, 0, one.bytes))
  },
  async free(memory: number): Promise<void> {
    await memories.get(memory).free()
  },
}
