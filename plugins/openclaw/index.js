// crabmesh for OpenClaw: the channel `mesh`, and the tools mesh_agents, mesh_send and mesh_ask.

import { defineChannelPluginEntry } from "openclaw/plugin-sdk/core";

import { channel } from "./src/channel.js";
import { PLUGIN } from "./src/names.js";
import { registerTools } from "./src/tools.js";

export default defineChannelPluginEntry({
  id: PLUGIN,
  name: "crabmesh",
  description: "Agents on other gateways of your crabmesh",
  plugin: channel,
  registerFull: registerTools,
});
