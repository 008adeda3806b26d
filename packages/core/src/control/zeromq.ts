/**
 * libzmq, by the binding zeromq.js. As published, @kvx/core carries a copy of it with the builds for Linux alone, made by
 * tools/native/zeromq.mjs (ADR 17); in the repository it is the package itself, unless the copy has been made.
 */
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import type * as Binding from 'zeromq'
import { KvxError } from '@kvx/contract'

const require = createRequire(import.meta.url)
const copy = fileURLToPath(new URL('../../prebuilds/zeromq/index.js', import.meta.url))

function load(): typeof Binding {
  try {
    return require(existsSync(copy) ? copy : 'zeromq') as typeof Binding
  } catch (cause) {
    const reason = cause instanceof Error ? (cause.message.split('\n')[0] ?? '') : String(cause)
    throw new KvxError(
      'ERR_KVX_BACKEND_UNAVAILABLE',
      `libzmq, which carries the control messages of kvx, cannot be loaded on ${process.platform}-${process.arch}: ${reason}. ` +
        '@kvx/core brings it for linux-x64 and linux-arm64, with glibc from 2.25 on or musl: install @kvx/core again if this is one of them.',
      { cause, phase: 'open' },
    )
  }
}

export const { Context, Dealer, Router } = load()
export type Context = Binding.Context
export type Dealer = Binding.Dealer
export type Router = Binding.Router
export type Observer = Binding.Observer
