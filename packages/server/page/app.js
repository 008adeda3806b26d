// The dashboard: reads the events of its server and draws them. Nothing is loaded from anywhere else.

const shownRequests = 30
const keptSamples = 240
const rateWindowMs = 10_000

/** By name of the worker: what it last told, and what was told before. */
const workers = new Map()
const open = new Set()

const byId = (id) => document.getElementById(id)
const keyForm = byId('key')

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name)
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value)
  made.append(...children)
  return made
}

function shape(name, attributes, ...children) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', name)
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value)
  made.append(...children)
  return made
}

const ms = (value) =>
  value === undefined
    ? '–'
    : value < 10
      ? `${value.toFixed(1)} ms`
      : value < 10_000
        ? `${Math.round(value)} ms`
        : `${(value / 1000).toFixed(1)} s`

function bytes(value) {
  const units = ['B', 'kB', 'MB', 'GB', 'TB']
  let unit = 0
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000
    unit++
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`
}

// Reading

async function read() {
  for (let pause = 500; ; pause = Math.min(pause * 2, 8_000)) {
    const key = sessionStorage.getItem('kvx-key')
    try {
      const response = await fetch('/dashboard/events', {
        headers: key ? { authorization: `Bearer ${key}` } : {},
      })
      if (response.status === 401) return askForKey(key !== null)
      if (!response.ok) throw new Error(`status ${response.status}`)
      say('live')
      pause = 250
      for await (const message of messages(response.body)) take(message)
      throw new Error('the server ended the connection')
    } catch (error) {
      say(`no connection (${error.message}); trying again`)
      await new Promise((resolve) => setTimeout(resolve, pause))
    }
  }
}

function askForKey(wasWrong) {
  say(wasWrong ? 'this key is not the right one' : 'locked')
  sessionStorage.removeItem('kvx-key')
  keyForm.hidden = false
  byId('key-text').focus()
}

keyForm.addEventListener('submit', (event) => {
  event.preventDefault()
  sessionStorage.setItem('kvx-key', byId('key-text').value)
  keyForm.hidden = true
  void read()
})

let connection = ''
function say(text) {
  connection = text
  schedule()
}

async function* messages(body) {
  const decoder = new TextDecoder()
  let rest = ''
  for await (const chunk of chunks(body)) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split('\n')
    rest = lines.pop()
    for (const line of lines) if (line.startsWith('data: {')) yield JSON.parse(line.slice(6))
  }
}

/** A body cannot be iterated in every browser. */
async function* chunks(body) {
  const reader = body.getReader()
  for (let next = await reader.read(); !next.done; next = await reader.read()) yield next.value
}

function take({ source, at, pages, peers, requests, gone }) {
  if (gone) {
    workers.delete(source.name)
    return schedule()
  }
  let worker = workers.get(source.name)
  if (!worker) workers.set(source.name, (worker = { samples: [], requests: new Map() }))
  Object.assign(worker, { source, at, pages, peers })
  if (pages) worker.samples.push({ at, ...pages })
  worker.samples.splice(0, worker.samples.length - keptSamples)
  for (const record of requests) {
    const key = `${record.request} ${record.room}`
    worker.requests.delete(key)
    worker.requests.set(key, record)
  }
  for (const key of worker.requests.keys()) {
    if (worker.requests.size <= 400) break
    worker.requests.delete(key)
  }
  schedule()
}

// Drawing

let scheduled = false
function schedule() {
  if (scheduled) return
  scheduled = true
  requestAnimationFrame(() => {
    scheduled = false
    draw()
  })
}

function draw() {
  const rooms = joined()
  const live = rooms.filter(({ ended }) => !ended).length
  byId('status').textContent =
    `${connection} · ${workers.size} worker${workers.size === 1 ? '' : 's'} · ${live} request${live === 1 ? '' : 's'} under way`
  drawRequests(rooms.slice(0, shownRequests))
  drawPages()
  drawWorkers()
  drawPairs(rooms)
  drawFailures(rooms)
}

/** The records of both legs of a request together, the newest first. */
function joined() {
  const rooms = new Map()
  for (const { source, requests } of workers.values()) {
    for (const record of requests.values()) {
      const key = record.room ?? record.request
      const room = rooms.get(key) ?? { key, legs: [] }
      room.legs.push({ ...record, source })
      rooms.set(key, room)
    }
  }
  for (const room of rooms.values()) {
    room.begin = Math.min(...room.legs.map(({ received }) => received))
    room.answer = room.legs.find(({ source }) => source.role !== 'prefill') ?? room.legs[0]
    room.error = room.legs.find(({ error }) => error)?.error
    room.ended = room.legs.every(({ ended }) => ended !== undefined)
    const ends = room.legs.map(({ received, ended }) =>
      ended === undefined ? Date.now() : received + ended,
    )
    room.length = Math.max(1, Math.max(...ends) - room.begin)
  }
  return [...rooms.values()].sort((a, b) => b.begin - a.begin)
}

function drawRequests(rooms) {
  byId('no-requests').hidden = rooms.length > 0
  const focused = document.activeElement?.closest?.('details')?.dataset.key
  byId('requests').replaceChildren(
    ...rooms.map((room) => {
      const { answer, error } = room
      const row = element(
        'details',
        { 'data-key': room.key, ...(open.has(room.key) && { open: '' }) },
        element(
          'summary',
          {},
          element(
            'span',
            { class: 'when dim' },
            new Date(room.begin).toLocaleTimeString([], { hour12: false }),
          ),
          element(
            'span',
            { class: `what${error ? ' failed' : ''}` },
            error?.code ?? `${answer.tokens} → ${answer.generated} tokens`,
          ),
          element('span', { class: 'bar' }, bar(room)),
          element('span', { class: 'ms' }, room.ended ? ms(room.length) : 'under way'),
        ),
        facts(room),
      )
      row.addEventListener('toggle', () => {
        if (row.open) open.add(room.key)
        else open.delete(room.key)
      })
      return row
    }),
  )
  if (focused) document.querySelector(`details[data-key="${CSS.escape(focused)}"] summary`)?.focus()
}

/** One line for prefill, with its chunks on the wire below, and one for decode. */
function bar(room) {
  const spans = room.legs.flatMap((leg) => spansOf(leg, leg.received - room.begin, room.length))
  const drawn = shape('svg', {
    viewBox: '0 0 1000 30',
    preserveAspectRatio: 'none',
    role: 'img',
    'aria-label': spans.map(({ what, from, to }) => `${what} ${ms(from)} to ${ms(to)}`).join(', '),
  })
  for (const { what, kind, from, to, y, height } of spans) {
    const x = (1000 * from) / room.length
    const width = Math.max(2, (1000 * (to - from)) / room.length)
    const title = shape('title', {}, `${what}: ${ms(from)} to ${ms(to)}`)
    drawn.append(shape('rect', { class: kind, x, y, width, height }, title))
  }
  return drawn
}

function spansOf({ source, moments, chunks, ended }, offset, length) {
  const spans = []
  const end = ended ?? length - offset
  const span = (what, kind, from, to, y, height) => {
    if (from === undefined || to === undefined || to < from) return
    spans.push({ what, kind, from: from + offset, to: to + offset, y, height })
  }
  if (source.role === 'prefill') {
    const began = moments['pages.leased'] ?? end
    span('waits', 'queued', 0, began, 2, 8)
    let from = began
    for (const { tokens, computed, sent } of chunks) {
      const which = `tokens ${tokens[0]} to ${tokens[1]}`
      if (computed !== undefined) {
        span(`prefill of ${which}`, 'prefill', from, computed, 2, 8)
        from = computed
      }
      span(`${which} handed over`, 'wire', computed ?? began, sent, 10, 4)
    }
    if (chunks.length > 0)
      span(
        'on the wire until all has landed',
        'wire',
        chunks.at(-1).sent,
        moments['transfer.complete'],
        10,
        4,
      )
    return spans
  }
  const arrived = moments['transfer.complete']
  const first = moments.token ?? end
  if (source.role === 'decode') {
    span('waits', 'queued', 0, moments['pages.leased'] ?? end, 17, 11)
    span('decode waits for the cache', 'waiting', moments['pages.leased'], arrived ?? end, 17, 11)
  } else span('waits and computes the prompt', 'prefill', 0, first, 17, 11)
  span('decode', 'decode', first, end, 17, 11)
  return spans
}

function facts({ legs, error }) {
  const list = element('dl', { class: 'facts' })
  const fact = (name, value) => {
    if (value === undefined || value === null) return
    list.append(element('div', {}, element('dt', {}, name), element('dd', {}, String(value))))
  }
  for (const { source, request, room, tokens, cachedTokens, moments, chunks, transfer } of legs) {
    fact(source.name, source.role === 'null' ? 'both halves' : source.role)
    fact('request', request)
    fact('room', room)
    fact('prompt tokens', tokens)
    fact(source.role === 'decode' ? 'tokens it had already' : 'tokens from the cache', cachedTokens)
    fact('waited for pages until', moments['pages.leased'] && ms(moments['pages.leased']))
    if (chunks.length > 0) {
      fact('chunks', chunks.length)
      fact('first chunk sent at', ms(chunks[0].sent))
      fact('prefill computed until', ms(chunks.at(-1).computed))
    }
    if (transfer) {
      fact('moved', `${bytes(transfer.bytes)} in ${ms(transfer.ms)} by ${transfer.backend}`)
      if (transfer.ms > 0) fact('speed', `${(transfer.bytes / transfer.ms / 1e6).toFixed(2)} GB/s`)
    }
    if (source.role !== 'prefill') fact('first token at', moments.token && ms(moments.token))
  }
  if (error) {
    fact('failed with', error.code)
    fact('cause', error.reason)
  }
  return list
}

const pageStates = ['leased', 'quarantined', 'cached', 'free']

function drawPages() {
  const charts = [...workers.values()]
    .filter(({ samples }) => samples.length > 0)
    .map(({ source, samples }) => {
      const drawn = shape('svg', {
        viewBox: '0 0 240 60',
        preserveAspectRatio: 'none',
        role: 'img',
      })
      const last = samples.at(-1)
      const all = pageStates.reduce((sum, state) => sum + last[state], 0) || 1
      const text = pageStates.map((state) => `${last[state]} ${state}`).join(', ')
      drawn.setAttribute('aria-label', `pages of ${source.name}: ${text}`)
      const below = samples.map(() => 0)
      const step = 240 / Math.max(1, keptSamples - 1)
      const x = (i) => 240 - (samples.length - 1 - i) * step
      for (const state of pageStates) {
        const floor = below.slice()
        samples.forEach((sample, i) => (below[i] += sample[state]))
        const point = (i, value) => `${x(i).toFixed(1)},${(60 - (60 * value) / all).toFixed(1)}`
        const top = below.map((value, i) => point(i, value))
        const bottom = floor.map((value, i) => point(i, value)).reverse()
        drawn.append(shape('polygon', { class: state, points: [...top, ...bottom].join(' ') }))
      }
      return element('figure', {}, drawn, element('figcaption', {}, `${source.name}: ${text}`))
    })
  byId('pages').replaceChildren(...charts)
}

function drawWorkers() {
  byId('workers').replaceChildren(
    ...[...workers.values()].map(({ source, at, peers, requests }) => {
      const records = [...requests.values()]
      const live = records.filter(({ ended }) => ended === undefined).length
      const list = peers.map(
        ({ instance, rank, state, requests: count }) => `${instance} ${rank}: ${state}, ${count}`,
      )
      return element(
        'tr',
        {},
        element('th', { scope: 'row' }, source.name),
        element('td', {}, source.role === 'null' ? 'both halves' : source.role),
        element('td', {}, String(live)),
        ...rates(records, at),
        element(
          'td',
          {},
          ...(list.length === 0 ? ['–'] : list.flatMap((peer) => [peer, element('br')])),
        ),
      )
    }),
  )
}

/** What was moved for these legs of late: per second, and how fast it was while it was on the wire. */
function rates(legs, now) {
  const moved = legs.filter(
    ({ transfer, received, moments }) =>
      transfer && received + moments['transfer.complete'] > now - rateWindowMs,
  )
  const sum = (of) => moved.reduce((total, { transfer }) => total + of(transfer), 0)
  const [total, wire] = [sum((t) => t.bytes), sum((t) => t.ms)]
  return [
    element('td', {}, `${bytes(total)} (${bytes(total / (rateWindowMs / 1000))}/s)`),
    element('td', {}, wire > 0 ? `${(total / wire / 1e6).toFixed(2)} GB/s` : '–'),
  ]
}

/** Of each prefill worker with each decode worker: only who is told of both legs of a request knows. */
function drawPairs(rooms) {
  const pairs = new Map()
  for (const { legs } of rooms) {
    const [prefill, decode] = ['prefill', 'decode'].map((role) =>
      legs.find(({ source }) => source.role === role),
    )
    if (!prefill || !decode) continue
    const [from, to] = [prefill.source.name, decode.source.name]
    const key = JSON.stringify([from, to])
    const pair = pairs.get(key) ?? { from, to, legs: [] }
    pair.legs.push(decode)
    pairs.set(key, pair)
  }
  const now = Math.max(...[...workers.values()].map(({ at }) => at))
  byId('between').hidden = pairs.size === 0
  byId('pairs').replaceChildren(
    ...[...pairs.values()].map(({ from, to, legs }) => {
      const live = legs.filter(({ ended }) => ended === undefined).length
      return element(
        'tr',
        {},
        element('th', { scope: 'row' }, from),
        element('td', {}, to),
        element('td', {}, String(live)),
        ...rates(legs, now),
      )
    }),
  )
}

function drawFailures(rooms) {
  const failures = new Map()
  for (const { error, begin } of rooms.toReversed()) {
    if (!error) continue
    const known = failures.get(error.code) ?? { count: 0, first: error.reason ?? '–', last: begin }
    failures.set(error.code, { ...known, count: known.count + 1, last: begin })
  }
  byId('no-failures').hidden = failures.size > 0
  byId('failures').replaceChildren(
    ...[...failures].map(([code, { count, first, last }]) =>
      element(
        'tr',
        {},
        element('th', { scope: 'row', class: 'failed' }, code),
        element('td', {}, String(count)),
        element('td', {}, first),
        element('td', {}, new Date(last).toLocaleTimeString([], { hour12: false })),
      ),
    ),
  )
}

setInterval(schedule, 1_000)
void read()
