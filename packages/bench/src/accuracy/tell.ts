/** What a comparison with one process has found. */
import type { Findings } from '../report/findings.ts'
import { count } from '../report/text.ts'
import { suppressed, type AccuracyResult, type AccuracySample } from './run.ts'

export function accuracyFindings(
  result: AccuracyResult,
  settings: Readonly<Record<string, unknown>>,
  interrupted: boolean,
): Findings {
  const { contenders, prompts, samples, rightAlone } = result
  const ran = contenders.filter(({ unavailable }) => unavailable === undefined)
  const of = (name: string): AccuracySample[] =>
    samples.filter(({ contender }) => contender === name)
  const engines = ran.filter(({ name }) => name !== suppressed)
  const right = (own: readonly AccuracySample[]): number =>
    own.filter(({ isRight }) => isRight).length
  const isWhole = (own: readonly AccuracySample[]): boolean => own.length === prompts
  const isEqual = (name: string): boolean => {
    const own = of(name)
    return (
      (interrupted || isWhole(own)) &&
      own.every(({ tokensEqual, cacheEqual }) => tokensEqual && cacheEqual)
    )
  }
  const control = of(suppressed)
  // It must be noticed in every cache, and in answers.
  const isNoticed =
    control.length > 0 &&
    control.every(
      ({ cacheEqual, message = '' }) => !cacheEqual && !message.startsWith('KvxError'),
    ) &&
    control.some(({ tokensEqual }) => !tokensEqual)
  const rows = ran.map(({ name }) => {
    const own = of(name)
    const share = (holds: (sample: AccuracySample) => boolean): string =>
      `${count(own.filter(holds).length)} of ${count(own.length)}`
    const verdict =
      name === suppressed
        ? isNoticed
          ? 'noticed, as it must be'
          : 'NOT NOTICED'
        : isEqual(name)
          ? 'equal'
          : 'NOT EQUAL'
    return [
      name === suppressed ? 'suppressed (control)' : name,
      ...[share(({ tokensEqual }) => tokensEqual), share(({ cacheEqual }) => cacheEqual)],
      ...[`${count(right(own))} of ${count(result.questions)}`, verdict],
    ]
  })
  const versions = ran.flatMap(({ name, version }) =>
    version === undefined ? [] : [[name, version] as const],
  )
  return {
    ok:
      engines.length > 0 &&
      engines.every(({ name }) => isEqual(name)) &&
      (interrupted || isNoticed),
    ...{ interrupted, settings, result, versions: Object.fromEntries(versions) },
    measures: engines.map(({ name }) => ({
      ...{ name: `${name}, prompts as in one process`, unit: 'prompts', better: 'higher' as const },
      value: of(name).filter(({ tokensEqual, cacheEqual }) => tokensEqual && cacheEqual).length,
    })),
    tables: [
      {
        title: 'Beside one process',
        head: ['engine', 'answers equal', 'caches equal', 'questions right', 'verdict'],
        rows: [
          ['one process', '', '', `${count(rightAlone)} of ${count(result.questions)}`, ''],
          ...rows,
        ],
        notes: [
          ...contenders.flatMap(({ name, unavailable }) =>
            unavailable === undefined ? [] : [`${name} did not run: ${unavailable}`],
          ),
          ...samples
            .filter(({ contender, message }) => contender !== suppressed && message !== undefined)
            .slice(0, 3)
            .map(({ contender, prompt, length, message = '' }) => {
              return `${contender}, prompt ${String(prompt)} of ${String(length)} tokens: ${message}`
            }),
        ],
      },
    ],
    charts: [],
  }
}
