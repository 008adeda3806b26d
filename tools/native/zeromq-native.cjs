// Stands for lib/native.js in the copy of zeromq.js that @kvx/core carries: loads the build for this platform.
const { existsSync } = require('node:fs')
const { arch, env, platform } = require('node:process')

// As node-gyp-build has it, which finds the other addons.
const libc = env.LIBC || (existsSync('/etc/alpine-release') ? 'musl' : 'glibc')
module.exports = require(`../${platform}-${arch}/zeromq.${libc}.node`)
