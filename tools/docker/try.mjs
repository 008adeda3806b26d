/**
 * `node tools/docker/try.mjs FOLDER [NAME=VALUE…]`: carries out docker/cpu.Dockerfile, or another by `FILE=docker/….Dockerfile`, in
 * scratch roots below FOLDER, where no Docker engine runs. What stands for an image is a root that debootstrap made (`SUITE`, default
 * bookworm), with this machine's Node in /usr/local for node's image. The steps are those of the file itself. Needs root,
 * debootstrap and a network. With `TAG` the last root is kept as an image of that name, from which another file may begin.
 */
import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { root } from '../lib/repository.mjs'
import { filled, pairsOf, stagesOf } from './dockerfile.mjs'

const [folder, ...given] = process.argv.slice(2)
if (folder === undefined || process.getuid() !== 0) {
  console.error(
    'usage, as root: node tools/docker/try.mjs FOLDER [FILE=docker/cpu.Dockerfile] [SUITE=bookworm] [TAG=kvx:cpu] [ARG=VALUE…]',
  )
  process.exit(2)
}
const {
  FILE = 'docker/cpu.Dockerfile',
  SUITE = 'bookworm',
  TAG,
  ...asked
} = Object.fromEntries(given.map((pair) => pair.split(/=(.*)/s).slice(0, 2)))
const { before, stages } = stagesOf(readFileSync(join(root, FILE), 'utf8'))

function run(command, args, options = {}) {
  const { status, error } = spawnSync(command, args, { stdio: 'inherit', ...options })
  if (error !== undefined || status !== 0)
    throw new Error(`${command} ${args.join(' ')}: ${error?.message ?? `exit code ${status}`}`)
}

/** Whom this machine trusts, and what else of its environment leads to registries, holds inside too. */
const certificates = '/etc/ssl/certs/ca-certificates.crt'
const certificatesInside = '/etc/certificates-outside.crt'
const outside = {
  ...Object.fromEntries(
    Object.entries(process.env).filter(([name]) =>
      /^(PIP_DEFAULT_TIMEOUT|npm_config_.*|https?_proxy|no_proxy)$/i.test(name),
    ),
  ),
  NODE_EXTRA_CA_CERTS: certificatesInside,
  PIP_CERT: certificatesInside,
}

const images = join(resolve(folder), 'images')
const imageOf = (name) => join(images, name.replace(/[/:]/g, '-'))

/** A root for a stage: of an image that was made here (TAG), or of what debootstrap makes. */
function rootFor(base, name) {
  const made = join(resolve(folder), name)
  if (existsSync(made)) throw new Error(`${made} is there already: remove it`)
  if (existsSync(imageOf(base))) {
    run('cp', ['-a', imageOf(base), made])
    return made
  }
  mkdirSync(images, { recursive: true })
  if (!existsSync(imageOf(SUITE))) run('debootstrap', ['--variant=minbase', SUITE, imageOf(SUITE)])
  run('cp', ['-a', imageOf(SUITE), made])
  if (base.startsWith('node:')) copyNode(made)
  for (const file of ['/etc/resolv.conf', '/etc/hosts']) cpSync(file, join(made, file))
  if (existsSync(certificates)) cpSync(certificates, join(made, certificatesInside))
  return made
}

function copyNode(target) {
  const prefix = dirname(dirname(process.execPath))
  mkdirSync(join(target, 'usr/local/bin'), { recursive: true })
  cpSync(process.execPath, join(target, 'usr/local/bin/node'))
  run('cp', ['-a', join(prefix, 'lib/node_modules'), join(target, 'usr/local/lib/')])
  for (const [name, file] of [
    ['npm', 'npm-cli.js'],
    ['npx', 'npx-cli.js'],
  ])
    run('ln', ['-sf', `../lib/node_modules/npm/bin/${file}`, join(target, 'usr/local/bin', name)])
}

const defaults = Object.fromEntries(before.flatMap(({ text }) => pairsOf(text)))
const roots = {}
for (const [index, { from, name = `stage-${index}`, steps }] of stages.entries()) {
  const base = filled(from, { ...defaults, ...asked })
  const at = (roots[name] = rootFor(base, name))
  const environment = `${imageOf(base)}.json`
  const values = existsSync(environment)
    ? JSON.parse(readFileSync(environment, 'utf8'))
    : { PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' }
  let [workdir, user, shell] = ['/', '0', ['/bin/sh', '-c']]
  for (const { instruction, text } of steps) {
    console.log(`\n${name}: ${instruction} ${text.slice(0, 150)}`)
    if (instruction === 'ARG') {
      for (const [key, value] of pairsOf(text)) values[key] = asked[key] ?? value
    } else if (instruction === 'ENV') {
      for (const [key, value] of pairsOf(text)) values[key] = filled(value, values)
    } else if (instruction === 'WORKDIR') {
      workdir = text
      mkdirSync(join(at, workdir), { recursive: true })
    } else if (instruction === 'USER') {
      user = text
    } else if (instruction === 'SHELL') {
      shell = JSON.parse(text)
    } else if (instruction === 'COPY') {
      copy(at, workdir, text.split(/\s+/))
    } else if (instruction === 'RUN') {
      const env = { ...outside, HOME: user === '0' ? '/root' : '/home/kvx', ...values }
      const inside = `mount -t proc proc /proc; mount -t tmpfs tmpfs /dev/shm 2>/dev/null; cd ${workdir}; exec setpriv --reuid ${user} --regid ${user === '0' ? 0 : user} --clear-groups "$@"`
      run(
        'unshare',
        ['--mount', '--pid', '--fork', 'chroot', at, '/bin/sh', '-c', inside, 'sh', ...shell, text],
        { env },
      )
    }
  }
  console.log(`\n${name}: made in ${at}`)
  if (TAG !== undefined && index === stages.length - 1) {
    renameSync(at, imageOf(TAG))
    writeFileSync(`${imageOf(TAG)}.json`, JSON.stringify(values))
  }
}

function copy(at, workdir, words) {
  const [option] = words
  const stage = /^--from=(.*)$/.exec(option)?.[1]
  const [source, target] = stage === undefined ? words : words.slice(1)
  const to = join(at, resolve(workdir, target))
  mkdirSync(dirname(to), { recursive: true })
  if (stage === undefined) {
    // As .dockerignore leaves it: what git knows of, and what is new.
    const list = spawnSync('git', ['ls-files', '-co', '--exclude-standard', '-z'], {
      cwd: root,
    }).stdout
    mkdirSync(to, { recursive: true })
    run('tar', ['-c', '--null', '-T', '-', '-f', join(at, 'source.tar')], {
      cwd: root,
      input: list,
      stdio: ['pipe', 'inherit', 'inherit'],
    })
    run('tar', ['-x', '-C', to, '-f', join(at, 'source.tar')])
    run('rm', [join(at, 'source.tar')])
  } else {
    run('cp', ['-a', join(roots[stage], source), to])
  }
}
