/** What a measurement has found, in the forms in which every report tells it. */

/** A number that a later report can be compared with, by its name. */
export interface Measure {
  /** Unique within a report. */
  readonly name: string
  readonly unit: string
  /** Of several rounds the median. */
  readonly value: number
  readonly least?: number
  readonly most?: number
  readonly better: 'higher' | 'lower'
}

export interface Table {
  readonly title: string
  readonly head: readonly string[]
  readonly rows: readonly (readonly string[])[]
  /** Whole sentences below it. */
  readonly notes?: readonly string[]
}

export interface Chart {
  /** Of its file, without an ending. */
  readonly name: string
  readonly title: string
  readonly kind: 'line' | 'bar'
  readonly x: { readonly label: string; readonly scale?: 'linear' | 'log' | 'point' }
  readonly y: { readonly label: string }
  readonly points: readonly {
    readonly series: string
    readonly x: number | string
    readonly y: number
    readonly least?: number
    readonly most?: number
  }[]
}

export interface Findings {
  /** Everything that was promised held. */
  readonly ok: boolean
  /** The run was ended early; what is here was measured until then. */
  readonly interrupted: boolean
  /** What the run was told, as JSON. */
  readonly settings: Readonly<Record<string, unknown>>
  /** Versions of what took part, beside those of kvx and Node. */
  readonly versions: Readonly<Record<string, string>>
  /** Everything that was measured, as JSON. */
  readonly result: unknown
  readonly measures: readonly Measure[]
  readonly tables: readonly Table[]
  readonly charts: readonly Chart[]
}
