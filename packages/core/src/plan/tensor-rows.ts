/** Which bytes of one page of a tensor become which of another: as lanes of a plan. */
import type { PageOrder, TensorPlace } from '../place/place.ts'
import type { Range } from '../share/holdings.ts'
import type { TensorShape } from '../shape/shape.ts'
import { rowsOf, type Loop } from './nest.ts'

/** One side of a lane. */
export interface TensorSide {
  readonly place: TensorPlace
  /** Units that the rank holds. */
  readonly held: Range
  /** Rows of a page, or of a slot. */
  readonly rows: number
}

/** `times` stretches of `run` rows of a page, at equal distances. */
export interface RowStrip {
  readonly source: number
  readonly destination: number
  readonly run: number
  readonly times: number
  readonly sourceStride: number
  readonly destinationStride: number
}

/** Rows as in `TransferPlan.lanes`: these units, of these rows of a page. */
export function tensorRows(options: {
  tensor: TensorShape
  units: Range
  strips: readonly RowStrip[]
  source: TensorSide
  destination: TensorSide
}): number[][] {
  const { tensor, units, strips, source, destination } = options
  const [from, to] = [stridesOf(source, tensor), stridesOf(destination, tensor)]
  // Elements of a unit lie side by side unless one side stores them apart.
  const apart = from.element !== elementBytes(tensor) || to.element !== elementBytes(tensor)
  const piece = apart ? elementBytes(tensor) : tensor.unitBytes
  return strips.flatMap((strip) => {
    const loops: Loop[] = [
      {
        count: strip.times,
        source: strip.sourceStride * from.row,
        destination: strip.destinationStride * to.row,
      },
      { count: strip.run, source: from.row, destination: to.row },
      { count: units[1] - units[0], source: from.unit, destination: to.unit },
      { count: tensor.unitBytes / piece, source: from.element, destination: to.element },
    ]
    const start = {
      source: strip.source * from.row + (units[0] - source.held[0]) * from.unit,
      destination: strip.destination * to.row + (units[0] - destination.held[0]) * to.unit,
    }
    return rowsOf(piece, loops).map((row) => [
      source.place.region,
      destination.place.region,
      source.place.base + start.source + row.source,
      destination.place.base + start.destination + row.destination,
      source.place.pageBytes,
      destination.place.pageBytes,
      row.bytes,
      row.runs,
      row.sourceStride,
      row.destinationStride,
    ])
  })
}

export function elementBytes({ elementBytes, unitBytes }: TensorShape): number {
  return elementBytes ?? unitBytes
}

/** Bytes from one row, unit and element to the next. */
export function stridesOf({ place, held, rows }: TensorSide, tensor: TensorShape) {
  const unit = tensor.unitBytes
  const element = elementBytes(tensor)
  const strides: Record<PageOrder, { row: number; unit: number; element: number }> = {
    NHD: { row: (held[1] - held[0]) * unit, unit, element },
    HND: { row: unit, unit: rows * unit, element },
    HDN: { row: element, unit: rows * unit, element: rows * element },
  }
  return strides[place.order]
}
