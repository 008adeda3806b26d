/**
 * What comes in from outside and what reads it first, for what proves it: hosts have no need of it.
 *
 * @packageDocumentation
 */
export {
  packInstance,
  replySchema,
  requestSchema,
  type BootstrapRequest,
  type RankRecord,
} from './bootstrap/messages.ts'
export { Published } from './bootstrap/published.ts'
export { RankTable } from './bootstrap/table.ts'
export { Waits } from './bootstrap/waits.ts'
export * from './control/index.ts'
