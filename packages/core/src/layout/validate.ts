import * as v from 'valibot'
import { KvxError } from '@kvx/contract'
import {
  checked,
  exactly,
  integer as whole,
  name as named,
  range,
  recordOf,
  such,
} from '../arguments.ts'
import { longestSetting, mostSettings, pageCount, type Layout, type Tensor } from './layout.ts'

const natural = whole(0)
const positive = whole(1)

/** The form of a layout; whether its numbers go together is seen to by `checkPlaces`. */
export const layoutSchema = exactly({
  model: named,
  settings: v.optional(recordOf(such<string>('a string', (value) => typeof value === 'string'))),
  pageTokens: positive,
  layers: positive,
  heads: positive,
  pages: recordOf(whole(1, 2 ** 31 - 1)),
  tensors: v.array(
    exactly({
      component: named,
      layer: natural,
      part: v.picklist(['k', 'v', 'latent'], "'k', 'v' or 'latent'"),
      dtype: named,
      region: natural,
      base: natural,
      pageBytes: positive,
      heads: range,
      headBytes: positive,
      order: v.picklist(['token-major', 'head-major'], "'token-major' or 'head-major'"),
    }),
    'an array of tensors',
  ),
})
const regionSizes = v.array(natural, 'an array of numbers of bytes')

/**
 * Is it a layout, and is every tensor within its region, of the size that its heads give it, and apart from all others?
 *
 * @param regionBytes sizes of the memories that `Tensor.region` counts
 * @throws KvxError `ERR_KVX_INVALID_ARGUMENT`
 */
export function checkLayout(layout: Layout, regionBytes: readonly number[]): void {
  const argument = { code: 'ERR_KVX_INVALID_ARGUMENT', phase: 'open' } as const
  checked(layoutSchema, layout, { ...argument, name: 'layout' })
  checked(regionSizes, regionBytes, { ...argument, name: 'regionBytes' })
  checkPlaces(layout, regionBytes)
}

/** The same of what has the form of a layout already. */
export function checkPlaces(layout: Layout, regionBytes: readonly number[]): void {
  integer('pageTokens', layout.pageTokens, 1)
  integer('layers', layout.layers, 1)
  integer('heads', layout.heads, 1)
  for (const [component, pages] of Object.entries(layout.pages)) {
    integer(`pages of the component '${component}'`, pages, 1, 2 ** 31 - 1)
  }
  checkSettings(layout.settings ?? {})
  if (layout.tensors.length === 0) throw invalid('it has no tensors')
  for (const tensor of layout.tensors) checkTensor(layout, tensor, regionBytes)

  const places = layout.tensors.map((tensor) => ({ tensor, end: endOf(layout, tensor) }))
  places.sort((a, b) => a.tensor.region - b.tensor.region || a.tensor.base - b.tensor.base)
  places.forEach(({ tensor, end }, i) => {
    const next = places[i + 1]?.tensor
    if (next?.region === tensor.region && next.base < end) {
      throw invalid(`${name(tensor)} and ${name(next)} overlap in region ${tensor.region}`)
    }
  })
  checkHeadsOnce(layout.tensors)
}

function checkTensor(layout: Layout, tensor: Tensor, regionBytes: readonly number[]): void {
  const what = name(tensor)
  const [low, high] = tensor.heads
  integer(`layer of ${what}`, tensor.layer, 0, layout.layers - 1)
  integer(`first head of ${what}`, low, 0, layout.heads - 1)
  integer(`end of the heads of ${what}`, high, low + 1, layout.heads)
  integer(`headBytes of ${what}`, tensor.headBytes, 1)
  integer(`base of ${what}`, tensor.base, 0)
  integer(`region of ${what}`, tensor.region, 0, regionBytes.length - 1)
  if (!Object.hasOwn(layout.pages, tensor.component)) {
    throw invalid(`the number of pages of the component '${tensor.component}' is missing`)
  }
  const bytes = layout.pageTokens * (high - low) * tensor.headBytes
  if (tensor.pageBytes !== bytes) {
    throw invalid(
      `${what} has pages of ${tensor.pageBytes} bytes, but ${layout.pageTokens} tokens of ${high - low} heads of ${tensor.headBytes} bytes are ${bytes}`,
    )
  }
  const end = endOf(layout, tensor)
  const size = regionBytes[tensor.region] ?? 0
  if (end > size) {
    throw invalid(`${what} ends at byte ${end} of region ${tensor.region}, which has ${size}`)
  }
}

function checkSettings(settings: Readonly<Record<string, unknown>>): void {
  const entries = Object.entries(settings)
  if (entries.length > mostSettings) {
    throw invalid(`it has ${entries.length} settings, more than ${mostSettings}`)
  }
  for (const [setting, value] of entries) {
    if (typeof value !== 'string' || value.length > longestSetting) {
      throw invalid(
        `the setting '${setting}' is not a text of at most ${longestSetting} characters`,
      )
    }
    if (setting.length > longestSetting) {
      throw invalid(
        `a setting has a name of ${setting.length} characters, more than ${longestSetting}`,
      )
    }
  }
}

/** The same heads of the same layer and part must not lie in two places. */
function checkHeadsOnce(tensors: readonly Tensor[]): void {
  const sorted = [...tensors].sort((a, b) => a.heads[0] - b.heads[0])
  const ends = new Map<string, number>()
  for (const tensor of sorted) {
    const what = name(tensor)
    if (tensor.heads[0] < (ends.get(what) ?? 0)) throw invalid(`${what} holds a head twice`)
    ends.set(what, tensor.heads[1])
  }
}

function endOf(layout: Layout, tensor: Tensor): number {
  return tensor.base + pageCount(layout, tensor.component) * tensor.pageBytes
}

function name(tensor: Tensor): string {
  return `${tensor.component} layer ${tensor.layer} ${tensor.part}`
}

function integer(what: string, value: number, least: number, most = Number.MAX_SAFE_INTEGER): void {
  if (!Number.isInteger(value) || value < least || value > most) {
    throw invalid(`${what} is ${value}, which is not an integer from ${least} to ${most}`)
  }
}

function invalid(why: string): KvxError {
  return new KvxError('ERR_KVX_INVALID_ARGUMENT', `The layout is not valid: ${why}.`, {
    phase: 'open',
  })
}
