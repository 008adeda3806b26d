import type { Suite } from '../suite.ts'
import { after } from './after.ts'
import { bounds } from './bounds.ts'
import { cancel } from './cancel.ts'
import { closedState } from './closed-state.ts'
import { concurrency } from './concurrency.ts'
import { connect } from './connect.ts'
import { deadline } from './deadline.ts'
import { digest } from './digest.ts'
import { fencing } from './fence.ts'
import { leaks } from './leaks.ts'
import { lifecycle } from './lifecycle.ts'
import { manifest } from './manifest.ts'
import { memory } from './memory.ts'
import { peerLoss } from './peer-loss.ts'
import { plans } from './plans.ts'
import { probe } from './probe.ts'
import { settled } from './settled.ts'
import { slowPeer } from './slow-peer.ts'
import { staging } from './staging.ts'
import { teardown } from './teardown.ts'
import { visibility } from './visibility.ts'

/** Each one asks one question; in the order in which an author wants the answers. */
export const suites: readonly Suite[] = [
  ...[manifest, probe, lifecycle, closedState, memory, connect, plans, bounds, visibility],
  ...[concurrency, cancel, deadline, after, settled, fencing, peerLoss, slowPeer],
  ...[digest, staging, leaks, teardown],
]
